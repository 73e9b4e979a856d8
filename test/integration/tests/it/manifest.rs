//! Manifests of pods and secrets, as JSON, which YAML contains.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// A pod of one container.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    name: String,
    volumes: Vec<Value>,
    mounts: Vec<Value>,
    secrets: Vec<Value>,
    annotations: serde_json::Map<String, Value>,
}

/// A pod whose container `shell` mounts one image at `/volume`.
pub(crate) fn pod(name: &str, reference: &str, policy: &str) -> Pod {
    Pod::new(name).volume("volume", reference, policy).mount("volume", "/volume")
}

/// A secret of type `kubernetes.io/dockerconfigjson` with one registry.
pub(crate) fn secret(name: &str, host: &str, (user, password): (&str, &str)) -> Value {
    let config = docker_config(host, (user, password)).to_string();
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": STANDARD.encode(config)},
    })
}

/// A `config.json` with one registry.
pub(crate) fn docker_config(host: &str, (user, password): (&str, &str)) -> Value {
    let auth = STANDARD.encode(format!("{user}:{password}"));
    json!({"auths": {host: {"auth": auth}}})
}

/// Several objects in one file.
pub(crate) fn documents<'d>(objects: impl IntoIterator<Item = &'d Value>) -> String {
    objects.into_iter().map(|object| format!("---\n{object}\n")).collect::<Vec<_>>().concat()
}

// === impl Pod ===

impl Pod {
    /// A pod without volumes.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            volumes: Vec::new(),
            mounts: Vec::new(),
            secrets: Vec::new(),
            annotations: serde_json::Map::new(),
        }
    }

    /// Adds an image volume.
    pub(crate) fn volume(mut self, name: &str, reference: &str, policy: &str) -> Self {
        self.volumes.push(json!({"name": name, "image": {"reference": reference, "pullPolicy": policy}}));
        self
    }

    /// Mounts a volume.
    pub(crate) fn mount(mut self, volume: &str, path: &str) -> Self {
        self.mounts.push(json!({"name": volume, "mountPath": path}));
        self
    }

    /// Mounts a part of a volume.
    pub(crate) fn mount_part(mut self, volume: &str, path: &str, sub_path: &str) -> Self {
        self.mounts.push(json!({"name": volume, "mountPath": path, "subPath": sub_path}));
        self
    }

    /// Lists a pull secret.
    pub(crate) fn secret(mut self, name: &str) -> Self {
        self.secrets.push(json!({"name": name}));
        self
    }

    /// Sets an annotation.
    pub(crate) fn annotate(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.into());
        self
    }

    /// The manifest.
    pub(crate) fn value(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": self.name, "annotations": self.annotations},
            "spec": {
                "containers": [
                    {"name": "shell", "image": "debian", "command": ["sleep", "infinity"], "volumeMounts": self.mounts},
                ],
                "volumes": self.volumes,
                "imagePullSecrets": self.secrets,
            },
        })
    }

    /// The manifest as text.
    pub(crate) fn json(&self) -> String {
        self.value().to_string()
    }
}
