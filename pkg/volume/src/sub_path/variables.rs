//! Environment variables of a container, as far as they are known before it runs, and expressions over them.

use std::collections::BTreeMap;

use imagevol_api::corev1::{EnvVar, EnvVarSource, Pod};

/// The variables of one container.
pub(super) struct Variables<'a>(BTreeMap<&'a str, Value>);

/// A variable's value, or why this node does not know it.
type Value = Result<String, String>;

// === impl Variables ===

impl<'a> Variables<'a> {
    /// Literals, and fields of the pod; a later one of the same name counts.
    pub(super) fn of(pod: &Pod, env: &'a [EnvVar]) -> Self {
        let mut known = Self(BTreeMap::new());
        for variable in env {
            let value = match &variable.value_from {
                Some(from) => value_from(pod, from),
                None => known.expanded(variable.value.as_deref().unwrap_or_default()),
            };
            known.0.insert(&variable.name, value);
        }
        known
    }

    /// `None` if the container has no such variable.
    pub(super) fn value(&self, name: &str) -> Option<Result<&str, &str>> {
        self.0.get(name).map(|value| value.as_deref().map_err(String::as_str))
    }

    /// Earlier variables may be used in later ones; what is none stays as it is written (expansion.go, `MappingFuncFor`).
    fn expanded(&self, literal: &str) -> Value {
        let mut unknown = None;
        let text = expand(literal, |name| match self.value(name) {
            Some(Ok(value)) => value.to_owned(),
            None => format!("$({name})"),
            Some(Err(why)) => {
                unknown.get_or_insert_with(|| why.to_owned());
                String::new()
            }
        });
        unknown.map_or(Ok(text), Err)
    }
}

/// `$(NAME)` is what `value` says, `$$` a dollar sign (Kubernetes, third_party/forked/golang/expansion).
pub(super) fn expand(expression: &str, mut value: impl FnMut(&str) -> String) -> String {
    let mut out = String::new();
    let mut rest = expression;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = after.strip_prefix('(').and_then(|after| after.split_once(')')) {
            out.push_str(&value(name));
            rest = after;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

fn value_from(pod: &Pod, from: &EnvVarSource) -> Value {
    let Some(field) = &from.field_ref else {
        return Err("it comes from an object that is not at hand on this node".to_owned());
    };
    let path = field.field_path.as_str();
    field_of(pod, path).ok_or_else(|| format!("field {path:?} has no value on this node"))
}

/// The pod fields that the downward API gives to variables (core/v1, `EnvVarSource.fieldRef`) and that are known here. A label
/// that the pod does not have is empty (pkg/fieldpath, `ExtractFieldPathAsString`).
fn field_of(pod: &Pod, path: &str) -> Option<String> {
    let (metadata, spec) = (&pod.metadata, pod.spec.as_ref());
    match path {
        "metadata.name" => metadata.name.clone(),
        "metadata.namespace" => metadata.namespace.clone(),
        "metadata.uid" => metadata.uid.clone(),
        "spec.nodeName" => spec?.node_name.clone(),
        "spec.serviceAccountName" => spec?.service_account_name.clone(),
        other => {
            let (map, key) = other.strip_suffix("']")?.split_once("['")?;
            let values = match map {
                "metadata.labels" => metadata.labels.as_ref(),
                "metadata.annotations" => metadata.annotations.as_ref(),
                _ => return None,
            };
            Some(values.and_then(|values| values.get(key)).cloned().unwrap_or_default())
        }
    }
}
