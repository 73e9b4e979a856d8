//! Objects, as their authors write them.

use serde_json::{Value, json};

use crate::cluster::Cluster;

/// An inline volume of the driver.
pub fn csi(name: &str, reference: &str) -> Value {
    csi_with(name, &json!({ "reference": reference }))
}

/// An inline volume of the driver with these attributes.
pub fn csi_with(name: &str, attributes: &Value) -> Value {
    let csi = json!({ "driver": "csi.imagevol.dev", "readOnly": true, "volumeAttributes": attributes });
    json!({ "name": name, "csi": csi })
}

/// The same volume with a secret of the pod's namespace.
pub fn with_secret(mut volume: Value, secret: &str) -> Value {
    volume["csi"]["nodePublishSecretRef"] = json!({ "name": secret });
    volume
}

/// An image volume of Kubernetes itself.
pub fn native(name: &str, reference: &str) -> Value {
    json!({ "name": name, "image": { "reference": reference } })
}

/// A pod `name` with one container `shell` that sleeps, and each volume mounted at `/NAME`.
pub fn pod(cluster: &Cluster, name: &str, volumes: &[Value]) -> Value {
    let mounts = volumes.iter().map(|volume| {
        let name = volume["name"].as_str().unwrap();
        json!({ "name": name, "mountPath": format!("/{name}") })
    });
    pod_with(cluster, name, volumes, &mounts.collect::<Vec<_>>())
}

/// A pod with these mounts.
pub fn pod_with(cluster: &Cluster, name: &str, volumes: &[Value], mounts: &[Value]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "app": name } },
        "spec": spec(cluster, volumes, mounts),
    })
}

/// The `spec` of a pod.
pub fn spec(cluster: &Cluster, volumes: &[Value], mounts: &[Value]) -> Value {
    json!({
        // The shell is process 1 and does not hear SIGTERM.
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": false,
        "containers": [{
            "name": "shell", "image": cluster.busybox(), "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", "sleep 86400"], "volumeMounts": mounts,
        }],
        "volumes": volumes,
    })
}

/// A deployment of so many copies of a pod.
pub fn deployment(pod: &Value, replicas: u32) -> Value {
    let (name, labels) = (&pod["metadata"]["name"], &pod["metadata"]["labels"]);
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": {
            "replicas": replicas, "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": pod["spec"] },
        },
    })
}
