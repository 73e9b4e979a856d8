//! Lists of images that are kept present: kind `ImagePrefetch`, `imagevol.dev/v1alpha1`.

use serde::{Deserialize, Serialize};

use crate::duration::Duration;

/// The kind of such a file.
pub const KIND: &str = "ImagePrefetch";

/// Images that the node keeps present, needed or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImagePrefetch {
    /// `imagevol.dev/v1alpha1`.
    pub api_version: String,
    /// `ImagePrefetch`.
    pub kind: String,
    /// Its name.
    pub metadata: PrefetchMetadata,
    /// What it asks for.
    pub spec: PrefetchSpec,
}

/// The part of `metav1.ObjectMeta` that means something here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PrefetchMetadata {
    /// A DNS subdomain; one list of the node has it.
    pub name: String,
}

/// What a list asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PrefetchSpec {
    /// The images, each once.
    pub images: Vec<PrefetchImage>,
}

/// An image that is kept present.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PrefetchImage {
    /// What a pod's volume would say.
    pub reference: String,
    /// `IfNotPresent` pulls what is absent; `Always` pulls when the list is read, and then by its schedule; `Never` only keeps what is
    /// there.
    /// Default: as for a pod's volume, by the tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<String>,
    /// When the registry is asked anew what the tag stands for, as a CronJob's `schedule`, in UTC. Needs `pullPolicy: Always`.
    /// Default: only when the list is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// After this time (RFC 3339) the image is neither pulled nor kept for this list.
    /// Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
    /// How long it is kept after it was pulled, if no pod has used it by then.
    /// Default: as long as the list names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_unused_for: Option<Duration>,
}
