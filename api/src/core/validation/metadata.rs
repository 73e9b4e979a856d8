//! Object metadata (apimachinery, `api/validation/objectmeta.go`).

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::config::{PULL_FAILURE_POLICY_ANNOTATION, PullFailurePolicy};
use crate::metav1::ObjectMeta;
use crate::names::PodUid;

use super::ErrorList;
use super::names::{dns_label, dns_subdomain, label_key, label_value};
use crate::core::field::{FieldError, Path};

/// Bytes of keys and values together (apimachinery, `TotalAnnotationSizeLimitB`).
const ANNOTATIONS_MAX: usize = 256 << 10;

/// Checks the metadata of a namespaced object whose name is a DNS subdomain.
pub(super) fn validate(metadata: &ObjectMeta) -> ErrorList {
    let path = Path::new("metadata");
    let mut errors = validate_name(metadata, &path);
    errors.extend(validate_namespace(metadata, &path.child("namespace")));
    errors.extend(metadata.labels.iter().flat_map(|labels| validate_labels(labels, &path.child("labels"))));
    let annotations = metadata.annotations.iter();
    errors.extend(annotations.flat_map(|annotations| validate_annotations(annotations, &path.child("annotations"))));
    errors
}

/// Rules of our own: what no API server knows of, or would replace.
pub(super) fn validate_pod(metadata: &ObjectMeta) -> ErrorList {
    validate_pod_uid(metadata).into_iter().chain(validate_pull_failure_policy(metadata)).collect()
}

/// A manifest may bring its own UID, which then names a directory: an API server would replace it.
fn validate_pod_uid(metadata: &ObjectMeta) -> Option<FieldError> {
    let uid = metadata.uid.as_deref().filter(|uid| !uid.is_empty())?;
    let path = Path::new("metadata").child("uid");
    uid.parse::<PodUid>()
        .err()
        .map(|_| path.invalid(uid, "must be at most 255 letters, digits, '-', '_' and '.', and neither '.' nor '..'"))
}

fn validate_pull_failure_policy(metadata: &ObjectMeta) -> Option<FieldError> {
    let policy = metadata.annotations.as_ref()?.get(PULL_FAILURE_POLICY_ANNOTATION)?;
    let path = Path::new("metadata").child("annotations").key(PULL_FAILURE_POLICY_ANNOTATION);
    PullFailurePolicy::from_str(policy).err().map(|_| path.not_supported(policy, PullFailurePolicy::NAMES))
}

pub(super) fn validate_labels(labels: &BTreeMap<String, String>, path: &Path) -> ErrorList {
    let of = |(key, value): (&String, &String)| {
        let keys = label_key(key).into_iter().map(|message| path.invalid(key.as_str(), message));
        let values = label_value(value).into_iter().map(|message| path.invalid(value.as_str(), message));
        keys.chain(values).collect::<Vec<_>>()
    };
    labels.iter().flat_map(of).collect()
}

/// Names are never generated here: `generateName` needs an API server that knows which ones are taken.
fn validate_name(metadata: &ObjectMeta, path: &Path) -> ErrorList {
    let name = metadata.name.as_deref().unwrap_or_default();
    let generated = metadata.generate_name.as_ref().is_some_and(|prefix| !prefix.is_empty());
    match (name, generated) {
        ("", true) => {
            vec![path.child("generateName").forbidden("names are not generated on a node: set metadata.name")]
        }
        ("", false) => vec![path.child("name").required("name or generateName is required")],
        (name, _) => invalid(&path.child("name"), name, dns_subdomain(name)),
    }
}

fn validate_namespace(metadata: &ObjectMeta, path: &Path) -> ErrorList {
    match metadata.namespace.as_deref().unwrap_or_default() {
        "" => vec![path.required("")],
        namespace => invalid(path, namespace, dns_label(namespace)),
    }
}

fn validate_annotations(annotations: &BTreeMap<String, String>, path: &Path) -> ErrorList {
    let keys = annotations.keys();
    let mut errors: Vec<_> = keys.flat_map(|key| invalid(path, key, label_key(&key.to_lowercase()))).collect();
    let size: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    errors.extend((size > ANNOTATIONS_MAX).then(|| path.too_long(ANNOTATIONS_MAX)));
    errors
}

fn invalid(path: &Path, value: &str, messages: Vec<String>) -> ErrorList {
    messages.into_iter().map(|message| path.invalid(value, message)).collect()
}
