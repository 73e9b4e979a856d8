//! What tests share: kinds, templates, and a JSON Patch that is applied.

use serde_json::{Value, json};

use crate::patch::Operation;
use crate::template::{GroupVersionKind, Shape};

pub(crate) const KINDS: [&str; 8] =
    ["Pod", "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job", "CronJob"];

pub(crate) fn kind(kind: &str) -> GroupVersionKind {
    let group = match kind {
        "Pod" | "ReplicationController" => "",
        "Job" | "CronJob" => "batch",
        _ => "apps",
    };
    GroupVersionKind { group: group.to_owned(), version: "v1".to_owned(), kind: kind.to_owned() }
}

/// An object of a kind around a pod.
pub(crate) fn wrap(name: &str, pod: Value) -> Value {
    match Shape::of(&kind(name)).unwrap() {
        Shape::Pod => pod,
        Shape::Workload => json!({"metadata": {"name": "w"}, "spec": {"template": pod}}),
        Shape::CronJob => json!({"metadata": {"name": "w"}, "spec": {"jobTemplate": {"spec": {"template": pod}}}}),
    }
}

pub(crate) fn pod_of<'a>(name: &str, object: &'a Value) -> &'a Value {
    object.pointer(Shape::of(&kind(name)).unwrap().pointer()).unwrap()
}

pub(crate) fn pod_of_mut<'a>(name: &str, object: &'a mut Value) -> &'a mut Value {
    object.pointer_mut(Shape::of(&kind(name)).unwrap().pointer()).unwrap()
}

/// Does what RFC 6902 says, and fails where it says that the patch fails.
pub(crate) fn apply(object: &mut Value, patch: &[Operation]) {
    for operation in patch {
        match operation {
            Operation::Replace { path, value } => *object.pointer_mut(path).unwrap() = value.clone(),
            Operation::Add { path, value } => {
                let (parent, key) = path.rsplit_once('/').unwrap();
                let parent = object.pointer_mut(parent).unwrap().as_object_mut().unwrap();
                parent.insert(key.replace("~1", "/").replace("~0", "~"), value.clone());
            }
        }
    }
}
