//! A container's environment, as far as it is known without running it.

use imagevol_api::corev1::{Container, EnvFromSource, EnvVar, EnvVarSource, Pod, ResourceFieldSelector};

use super::{Sheet, text_of};
use crate::{quantity, text};

/// Indentation of the variables.
const LEVEL: usize = 3;

/// `Environment Variables from:` and `Environment:`.
pub(super) fn all(sheet: &mut Sheet, pod: &Pod, container: &Container) {
    let sources = container.env_from.as_deref().unwrap_or_default();
    if !sources.is_empty() {
        sheet.line(LEVEL - 1, "Environment Variables from:");
        for source in sources {
            from(sheet, source);
        }
    }
    let variables = container.env.as_deref().unwrap_or_default();
    if variables.is_empty() {
        return sheet.field(LEVEL - 1, "Environment", "<none>");
    }
    sheet.line(LEVEL - 1, "Environment:");
    for variable in variables {
        match &variable.value_from {
            None => literal(sheet, variable),
            Some(source) => reference(sheet, pod, container, (&variable.name, source)),
        }
    }
}

fn from(sheet: &mut Sheet, source: &EnvFromSource) {
    let (mut kind, mut name, mut optional) = (String::new(), "", None);
    if let Some(map) = &source.config_map_ref {
        (kind, name, optional) = ("ConfigMap".to_owned(), &map.name, map.optional);
    } else if let Some(secret) = &source.secret_ref {
        (kind, name, optional) = ("Secret".to_owned(), &secret.name, secret.optional);
    }
    if let Some(prefix) = source.prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
        text::append(&mut kind, format_args!(" with prefix '{prefix}'"));
    }
    sheet.cells(LEVEL, &[name, &kind, &optional_text(optional)]);
}

fn literal(sheet: &mut Sheet, variable: &EnvVar) {
    for (index, line) in text_of(variable.value.as_ref()).split('\n').enumerate() {
        let label = if index == 0 { format!("{}:", variable.name) } else { String::new() };
        sheet.cells(LEVEL, &[&label, line]);
    }
}

fn reference(sheet: &mut Sheet, pod: &Pod, container: &Container, (name, source): (&str, &EnvVarSource)) {
    let label = format!("{name}:");
    if let Some(field) = &source.field_ref {
        let version = field.api_version.as_deref().unwrap_or("v1");
        let value = pod_field(pod, &field.field_path).unwrap_or_default();
        sheet.cells(LEVEL, &[&label, &format!("{value} ({version}:{})", field.field_path)]);
    } else if let Some(field) = &source.resource_field_ref {
        sheet.cells(LEVEL, &[&label, &format!("{} ({})", resource(container, field), field.resource)]);
    } else if let Some(key) = &source.secret_key_ref {
        let value = format!("<set to the key '{}' in secret '{}'>", key.key, key.name);
        sheet.cells(LEVEL, &[&label, &value, &optional_text(key.optional)]);
    } else if let Some(key) = &source.config_map_key_ref {
        let value = format!("<set to the key '{}' of config map '{}'>", key.key, key.name);
        sheet.cells(LEVEL, &[&label, &value, &optional_text(key.optional)]);
    }
}

fn optional_text(optional: Option<bool>) -> String {
    format!("Optional: {}", optional.unwrap_or_default())
}

/// The fields that kubectl looks up (apimachinery, pkg/runtime/conversion.go, `DefaultMetaV1FieldSelectorConversion`).
fn pod_field(pod: &Pod, path: &str) -> Option<String> {
    match path {
        "metadata.name" => pod.metadata.name.clone(),
        "metadata.namespace" => pod.metadata.namespace.clone(),
        _ => None,
    }
}

fn resource(container: &Container, field: &ResourceFieldSelector) -> String {
    let value = resource_value(container, field).map(|value| value.to_string());
    match value.as_deref() {
        // An absent limit is the node's own.
        None | Some("0") if matches!(field.resource.as_str(), "limits.cpu" | "limits.memory") => {
            "node allocatable".to_owned()
        }
        None => "0".to_owned(),
        Some(value) => value.to_owned(),
    }
}

fn resource_value(container: &Container, field: &ResourceFieldSelector) -> Option<i128> {
    let (side, name) = field.resource.split_once('.')?;
    let resources = container.resources.as_ref()?;
    let amounts = if side == "limits" { &resources.limits } else { &resources.requests };
    quantity::divided(&amounts.as_ref()?.get(name)?.0, field.divisor.as_ref().map(|divisor| divisor.0.as_str()))
}
