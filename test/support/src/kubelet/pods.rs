//! Pods, as far as their volumes go.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A pod with volumes of the driver.
#[derive(Debug, Clone)]
pub struct KubeletPod {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `spec.serviceAccountName`.
    pub service_account: String,
}

/// A volume of a pod.
#[derive(Debug, Clone)]
pub struct KubeletVolume {
    /// Its name in the pod's spec, or that of the persistent volume.
    pub name: String,
    /// How long it lives.
    pub lifecycle: Lifecycle,
    /// `volumeAttributes`.
    pub attributes: BTreeMap<String, String>,
    /// `readOnly`.
    pub read_only: bool,
    /// What `nodePublishSecretRef` holds.
    pub secrets: BTreeMap<String, String>,
}

/// How long a volume lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifecycle {
    /// As long as its pod: it is written in the pod's spec.
    Ephemeral,
    /// It is an object of the cluster.
    Persistent,
}

// === impl KubeletPod ===

impl KubeletPod {
    /// A pod of this UID.
    pub fn new(uid: &str) -> Self {
        Self {
            uid: uid.to_owned(),
            name: format!("pod-{uid}"),
            namespace: "default".to_owned(),
            service_account: "default".to_owned(),
        }
    }

    /// What the kubelet tells of the pod (pkg/volume/csi/csi_util.go, `getPodInfoAttrs`).
    pub(super) fn info(&self, lifecycle: Lifecycle) -> BTreeMap<String, String> {
        let ephemeral = (lifecycle == Lifecycle::Ephemeral).to_string();
        let pairs = [
            ("pod.name", &self.name),
            ("pod.namespace", &self.namespace),
            ("pod.uid", &self.uid),
            ("serviceAccount.name", &self.service_account),
            ("ephemeral", &ephemeral),
        ];
        pairs.into_iter().map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), value.clone())).collect()
    }
}

// === impl KubeletVolume ===

impl KubeletVolume {
    /// A volume in a pod's spec, as the documentation writes it.
    pub fn inline(name: &str, reference: &str) -> Self {
        Self {
            name: name.to_owned(),
            lifecycle: Lifecycle::Ephemeral,
            attributes: BTreeMap::from([("reference".to_owned(), reference.to_owned())]),
            read_only: true,
            secrets: BTreeMap::new(),
        }
    }

    /// Adds an attribute, or changes it.
    #[must_use]
    pub fn attribute(mut self, key: &str, value: &str) -> Self {
        self.attributes.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Where the volume is mounted for a pod below a kubelet's root.
    pub fn target(&self, root: &Path, pod: &KubeletPod) -> PathBuf {
        target(root, &pod.uid, &self.name)
    }
}

/// Where a volume is mounted (pkg/volume/csi/csi_mounter.go, `getTargetPath`).
pub(super) fn target(root: &Path, pod: &str, volume: &str) -> PathBuf {
    root.join("pods").join(pod).join("volumes/kubernetes.io~csi").join(volume).join("mount")
}
