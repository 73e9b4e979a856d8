//! Where an object keeps its pod: the pod itself, or the template that a workload makes pods from.

use imagevol_api::core::field::Path;
use serde::Deserialize;
use serde_json::{Map, Value};

/// A JSON object.
pub(crate) type Object = Map<String, Value>;

/// A `GroupVersionKind` as an admission request spells it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct GroupVersionKind {
    /// The API group; empty for core.
    pub group: String,
    /// The version in the group.
    pub version: String,
    /// The kind.
    pub kind: String,
}

/// How deep an object keeps the pod's metadata and spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Pod,
    /// `spec.template`.
    Workload,
    /// `spec.jobTemplate.spec.template`.
    CronJob,
}

/// The part of an object that describes a pod.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Template<'a> {
    pub(crate) shape: Shape,
    pub(crate) metadata: Option<&'a Object>,
    pub(crate) spec: &'a Object,
}

/// A field of the object has a type that the API server never sends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: not {expected}")]
pub struct Malformed {
    /// The path of the field.
    pub field: String,
    /// What it has to be.
    pub expected: &'static str,
}

// === impl Shape ===

impl Shape {
    /// The shape of a kind, in the one version of each that API servers with image volumes (1.31 and later) serve.
    pub(crate) fn of(kind: &GroupVersionKind) -> Option<Self> {
        match (kind.group.as_str(), kind.version.as_str(), kind.kind.as_str()) {
            ("", "v1", "Pod") => Some(Self::Pod),
            ("", "v1", "ReplicationController")
            | ("apps", "v1", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
            | ("batch", "v1", "Job") => Some(Self::Workload),
            ("batch", "v1", "CronJob") => Some(Self::CronJob),
            _ => None,
        }
    }

    /// The JSON pointer (RFC 6901) of the pod or the template.
    pub(crate) const fn pointer(self) -> &'static str {
        match self {
            Self::Pod => "",
            Self::Workload => "/spec/template",
            Self::CronJob => "/spec/jobTemplate/spec/template",
        }
    }

    /// The path of the pod's spec, as the API server's messages have it.
    pub(crate) fn spec_path(self) -> Path {
        Path::new(match self {
            Self::Pod => "spec",
            Self::Workload => "spec.template.spec",
            Self::CronJob => "spec.jobTemplate.spec.template.spec",
        })
    }
}

// === impl Template ===

impl<'a> Template<'a> {
    /// The pod of an object; nothing if it has none: a ReplicationController need not have a template.
    pub(crate) fn find(shape: Shape, object: &'a Value) -> Result<Option<Self>, Malformed> {
        let Some(pod) = object.pointer(shape.pointer()).filter(|pod| !pod.is_null()) else { return Ok(None) };
        let pod = as_object(pod, shape.pointer())?;
        let Some(spec) = object_in(pod, "spec")? else { return Ok(None) };
        Ok(Some(Self { shape, metadata: object_in(pod, "metadata")?, spec }))
    }

    /// The value of an annotation.
    pub(crate) fn annotation(&self, key: &str) -> Result<Option<&'a str>, Malformed> {
        match self.annotations()? {
            Some(annotations) => text_in(annotations, key),
            None => Ok(None),
        }
    }

    /// All annotations; nothing where the field is absent.
    pub(crate) fn annotations(&self) -> Result<Option<&'a Object>, Malformed> {
        self.metadata.map_or(Ok(None), |metadata| object_in(metadata, "annotations"))
    }

    /// The pod's volumes.
    pub(crate) fn volumes(&self) -> Result<&'a [Value], Malformed> {
        list_in(self.spec, "volumes")
    }

    /// The name of the pod's first image pull secret.
    pub(crate) fn first_pull_secret(&self) -> Result<Option<&'a str>, Malformed> {
        let Some(first) = list_in(self.spec, "imagePullSecrets")?.first() else { return Ok(None) };
        let name = text_in(as_object(first, "imagePullSecrets[0]")?, "name")?;
        Ok(name.filter(|name| !name.is_empty()))
    }
}

/// The value as an object.
pub(crate) fn as_object<'a>(value: &'a Value, field: &str) -> Result<&'a Object, Malformed> {
    value.as_object().ok_or_else(|| malformed(field, "an object"))
}

/// A field that holds an object; absent and null are the same.
pub(crate) fn object_in<'a>(object: &'a Object, field: &str) -> Result<Option<&'a Object>, Malformed> {
    present(object, field).map(|value| as_object(value, field)).transpose()
}

/// A field that holds a list; absent and null are the empty one.
pub(crate) fn list_in<'a>(object: &'a Object, field: &str) -> Result<&'a [Value], Malformed> {
    let Some(value) = present(object, field) else { return Ok(&[]) };
    value.as_array().map(Vec::as_slice).ok_or_else(|| malformed(field, "a list"))
}

/// A field that holds text; absent and null are the same.
pub(crate) fn text_in<'a>(object: &'a Object, field: &str) -> Result<Option<&'a str>, Malformed> {
    let Some(value) = present(object, field) else { return Ok(None) };
    value.as_str().map(Some).ok_or_else(|| malformed(field, "a string"))
}

/// A field that has a value.
pub(crate) fn present<'a>(object: &'a Object, field: &str) -> Option<&'a Value> {
    object.get(field).filter(|value| !value.is_null())
}

fn malformed(field: &str, expected: &'static str) -> Malformed {
    Malformed { field: field.to_owned(), expected }
}
