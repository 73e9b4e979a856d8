//! Pods and workloads, as their authors write them and as they are to be stored.

use serde_json::{Value, json};

pub(crate) const KINDS: [&str; 8] =
    ["Pod", "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job", "CronJob"];

/// The annotation of the original.
pub(crate) const ORIGINAL: &str = "imagevol.dev/original-volumes";

/// The pod or template of an object.
pub(crate) fn template_path(kind: &str) -> &'static str {
    match kind {
        "Pod" => "",
        "CronJob" => "/spec/jobTemplate/spec/template",
        _ => "/spec/template",
    }
}

pub(crate) fn template_of<'a>(kind: &str, object: &'a Value) -> &'a Value {
    object.pointer(template_path(kind)).unwrap()
}

pub(crate) fn template_of_mut<'a>(kind: &str, object: &'a mut Value) -> &'a mut Value {
    object.pointer_mut(template_path(kind)).unwrap()
}

/// Two image volumes, something else between them, sub paths, and two secrets. It fits no node, so that nothing runs.
pub(crate) fn as_written() -> Value {
    json!({
        "metadata": {"labels": {"app": "x"}, "annotations": {"note": "kept"}},
        "spec": {
            "automountServiceAccountToken": false,
            "nodeSelector": {"e2e.imagevol.dev/none": "true"},
            "imagePullSecrets": [{"name": "first"}, {"name": "second"}],
            "initContainers": [{
                "name": "init", "image": "busybox:1", "volumeMounts": [{"name": "site", "mountPath": "/site"}],
            }],
            "containers": [{
                "name": "c", "image": "busybox:1",
                "volumeMounts": [
                    {"name": "site", "mountPath": "/www", "subPath": "srv/www"},
                    {"name": "cache", "mountPath": "/cache"},
                    {"name": "model", "mountPath": "/model", "readOnly": true},
                    {"name": "site", "mountPath": "/conf", "subPath": "etc/site.conf", "readOnly": false},
                ],
            }],
            "volumes": [
                {"name": "site", "image": {"reference": "quay.io/demo/site:v1"}},
                {"name": "cache", "emptyDir": {"sizeLimit": "1Gi"}},
                {"name": "model", "image": {"reference": "quay.io/demo/model", "pullPolicy": "Never"}},
            ],
        },
    })
}

/// The same as somebody writes it who knows the CSI driver.
pub(crate) fn by_hand() -> Value {
    let mut pod = as_written();
    let csi = |name: &str, reference: &str, policy: &str| {
        json!({"name": name, "csi": {
            "driver": "csi.imagevol.dev", "readOnly": true, "nodePublishSecretRef": {"name": "first"},
            "volumeAttributes": {"reference": reference, "pullPolicy": policy},
        }})
    };
    pod["spec"]["volumes"][0] = csi("site", "quay.io/demo/site:v1", "IfNotPresent");
    pod["spec"]["volumes"][2] = csi("model", "quay.io/demo/model", "Never");
    for mount in ["initContainers/0/volumeMounts/0", "containers/0/volumeMounts/0", "containers/0/volumeMounts/3"] {
        pod.pointer_mut(&format!("/spec/{mount}")).unwrap()["readOnly"] = json!(true);
    }
    let originals = json!([
        {"image": {"pullPolicy": "IfNotPresent", "reference": "quay.io/demo/site:v1"}, "name": "site"},
        {"image": {"pullPolicy": "Never", "reference": "quay.io/demo/model"}, "name": "model"},
    ]);
    pod["metadata"]["annotations"][ORIGINAL] = json!(originals.to_string());
    pod
}

/// An image volume.
pub(crate) fn image(name: &str, reference: &str) -> Value {
    json!({"name": name, "image": {"reference": reference, "pullPolicy": "IfNotPresent"}})
}

/// A pod of these volumes, each mounted.
pub(crate) fn pod_of(volumes: &Value) -> Value {
    let mut pod = as_written();
    let names = volumes.as_array().unwrap().iter().map(|volume| volume["name"].as_str().unwrap());
    let mounts: Vec<_> = names.map(|name| json!({"name": name, "mountPath": format!("/{name}")})).collect();
    pod["spec"]["containers"][0]["volumeMounts"] = json!(mounts);
    pod["spec"].as_object_mut().unwrap().remove("initContainers");
    pod["spec"].as_object_mut().unwrap().remove("imagePullSecrets");
    pod["spec"]["volumes"] = volumes.clone();
    pod
}

/// An object of the kind around a pod; no controller does anything with it.
pub(crate) fn wrap(kind: &str, mut pod: Value) -> Value {
    let jobs = matches!(kind, "Job" | "CronJob");
    pod["spec"]["restartPolicy"] = json!(if jobs { "Never" } else { "Always" });
    if kind == "Pod" {
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"]["name"] = json!("x");
        return pod;
    }
    let spec = match kind {
        "DaemonSet" => json!({"selector": {"matchLabels": {"app": "x"}}, "template": pod}),
        "ReplicationController" => json!({"replicas": 0, "selector": {"app": "x"}, "template": pod}),
        "Job" => json!({"suspend": true, "template": pod}),
        "CronJob" => {
            json!({"suspend": true, "schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": pod}}})
        }
        "StatefulSet" => {
            json!({"replicas": 0, "serviceName": "x", "selector": {"matchLabels": {"app": "x"}}, "template": pod})
        }
        _ => json!({"replicas": 0, "selector": {"matchLabels": {"app": "x"}}, "template": pod}),
    };
    let version = match kind {
        "ReplicationController" => "v1",
        "Job" | "CronJob" => "batch/v1",
        _ => "apps/v1",
    };
    // A job without labels would share its template's, in one and the same Go map, until somebody changes the object on
    // its way: what the API server then adds to the one is not in the other.
    let metadata = json!({"name": "x", "labels": {"app": "y"}});
    json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})
}

/// What is left of an object when everything is gone that differs for two of the same content.
pub(crate) fn normal(object: &Value) -> Value {
    let uid = object["metadata"]["uid"].as_str().unwrap_or("no uid").to_owned();
    let mut object: Value = serde_json::from_str(&object.to_string().replace(&uid, "UID")).unwrap();
    let metadata = object["metadata"].as_object_mut().unwrap();
    for field in ["namespace", "creationTimestamp", "resourceVersion", "generation", "managedFields"] {
        metadata.remove(field);
    }
    object.as_object_mut().unwrap().remove("status");
    object
}
