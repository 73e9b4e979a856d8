//! The API server's checks of pods and pull secrets (Kubernetes 1.36, `pkg/apis/core/validation/validation.go`).
//!
//! Whatever concerns image volumes is checked with the API server's rules, order and texts. What only matters to a
//! container runtime (probes, ports, environment, security contexts, scheduling) is not: imagevol runs no containers.
//! Objects must be defaulted first. Names that pass are safe as path components.

mod container;
mod metadata;
mod mounts;
mod names;
mod secret;
mod volumes;

pub(crate) use names::{dns_subdomain, label_key};
pub use secret::validate_secret;
pub(crate) use volumes::source_fields;

use crate::corev1::{Pod, PodSpec};
use crate::metav1::ObjectMeta;

use super::field::{FieldError, Path};
use container::View;
use names::dns_label;

/// Errors in the order in which the API server finds them.
pub type ErrorList = Vec<FieldError>;

/// Every error of a defaulted pod; none means that it may be used.
pub fn validate_pod(pod: &Pod) -> ErrorList {
    let silent = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&silent);
    let path = Path::new("spec");
    let mut errors = metadata::validate(&pod.metadata);
    errors.extend(metadata::validate_pod(&pod.metadata));
    errors.extend(validate_spec(spec, &pod.metadata, &path));
    errors.extend(validate_images(spec, &path));
    errors.extend(validate_create(spec, &path));
    errors
}

fn validate_spec(spec: &PodSpec, metadata: &ObjectMeta, path: &Path) -> ErrorList {
    let (volumes, mut errors) = volumes::validate(spec.volumes.as_deref().unwrap_or_default(), &path.child("volumes"));
    errors.extend(volumes::validate_claims(spec, metadata, path));
    errors.extend(container::validate_all(spec, &volumes, path));
    errors.extend(validate_policies(spec, path));
    if let Some(selector) = &spec.node_selector {
        errors.extend(metadata::validate_labels(selector, &path.child("nodeSelector")));
    }
    errors.extend(validate_names(spec, path));
    errors.extend(validate_os(spec, &path.child("os")));
    errors
}

fn validate_policies(spec: &PodSpec, path: &Path) -> ErrorList {
    let restart =
        one_of(spec.restart_policy.as_deref(), &["Always", "OnFailure", "Never"], &path.child("restartPolicy"));
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    let dns = one_of(spec.dns_policy.as_deref(), &policies, &path.child("dnsPolicy"));
    restart.into_iter().chain(dns).collect()
}

/// The names in a spec, in the API server's order.
fn validate_names(spec: &PodSpec, path: &Path) -> ErrorList {
    type Check = fn(&str) -> Vec<String>;
    let before: [(&Option<String>, &str, Check); 2] = [
        (&spec.service_account_name, "serviceAccountName", dns_subdomain),
        (&spec.node_name, "nodeName", dns_subdomain),
    ];
    let after: [(&Option<String>, &str, Check); 4] = [
        (&spec.hostname, "hostname", dns_label),
        (&spec.subdomain, "subdomain", dns_label),
        (&spec.priority_class_name, "priorityClassName", dns_subdomain),
        (&spec.runtime_class_name, "runtimeClassName", dns_subdomain),
    ];
    let check = |(name, field, check): &(&Option<String>, &str, Check)| {
        let name = name.as_deref().unwrap_or_default();
        let messages = if name.is_empty() { Vec::new() } else { check(name) };
        messages.into_iter().map(|message| path.child(field).invalid(name, message)).collect::<Vec<_>>()
    };
    let deadline = spec.active_deadline_seconds.filter(|seconds| !(1..=i64::from(i32::MAX)).contains(seconds));
    let deadline = deadline.map(|seconds| {
        let range = format!("must be between 1 and {}, inclusive", i32::MAX);
        path.child("activeDeadlineSeconds").invalid(seconds, range)
    });
    before.iter().flat_map(check).chain(deadline).chain(after.iter().flat_map(check)).collect()
}

fn validate_os(spec: &PodSpec, path: &Path) -> Option<FieldError> {
    match spec.os.as_ref()?.name.as_str() {
        "" => Some(path.child("name").required("")),
        "linux" | "windows" => None,
        other => Some(path.not_supported(other, &["linux", "windows"])),
    }
}

/// Checks that hold for pods and not for templates of pods (`validateContainersOnlyForPod`).
fn validate_images(spec: &PodSpec, path: &Path) -> ErrorList {
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let lists = [("containers", spec.containers.as_slice()), ("initContainers", init)];
    let images = lists.into_iter().flat_map(|(name, list)| {
        let path = path.child(name);
        list.iter()
            .enumerate()
            .filter_map(move |(index, each)| container::image_spaces(&View::from(each), &path.index(index)))
    });
    images.collect()
}

/// Checks of new pods (`ValidatePodCreate`).
fn validate_create(spec: &PodSpec, path: &Path) -> ErrorList {
    let some = |present: bool, error: FieldError| present.then_some(error);
    let ephemeral = spec.ephemeral_containers.as_ref().is_some_and(|list| !list.is_empty());
    let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    let on_node = spec.node_name.as_ref().is_some_and(|name| !name.is_empty());
    let errors = [
        some(ephemeral, path.child("ephemeralContainers").forbidden("cannot be set on create")),
        some(
            gated && on_node,
            path.child("nodeName").forbidden("cannot be set until all schedulingGates have been cleared"),
        ),
    ];
    errors.into_iter().flatten().collect()
}

/// A field that must have one of the values of its type.
fn one_of(value: Option<&str>, supported: &[&str], path: &Path) -> Option<FieldError> {
    match value.unwrap_or_default() {
        "" => Some(path.required("")),
        value if supported.contains(&value) => None,
        value => Some(path.not_supported(value, supported)),
    }
}

#[cfg(test)]
mod tests;
