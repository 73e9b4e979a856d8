//! Lists of images that are kept present: kind `ImagePrefetch`, `imagevol.dev/v1alpha1`.

mod parse;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::core::FieldError;
use crate::cron::CronSchedule;
use crate::duration::Duration;
use crate::names::PrefetchName;
use crate::oci::Reference;

/// The kind of such a file.
pub const KIND: &str = "ImagePrefetch";
/// The name that no list may have: the rows of images that were fetched ahead by command are under it.
pub const RESERVED_NAME: &str = "imagevol-prefetch";
/// Longest file of lists; a list of a thousand images has about 100 KiB.
pub const MAX_BYTES: usize = 1 << 20;

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

/// A list that has passed every check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedList {
    /// Its name.
    pub name: PrefetchName,
    /// Its images, each of another reference.
    pub images: Vec<CheckedImage>,
}

/// An image of a list that has passed every check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedImage {
    /// The reference as it is written.
    pub written: String,
    /// The same, normalized, with its tag or digest.
    pub reference: Reference,
    /// When the registry is asked.
    pub policy: PrefetchPolicy,
    /// After this time it is neither pulled nor kept.
    pub deadline: Option<Timestamp>,
    /// How long it is kept after its pull, if no pod has used it by then.
    pub keep_unused_for: Option<std::time::Duration>,
}

/// When the registry is asked for an image of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrefetchPolicy {
    /// Once for the list, and then by the schedule, if there is one.
    Always(Option<CronSchedule>),
    /// Where the image is absent.
    IfNotPresent,
    /// Never.
    Never,
}

/// Why a file of lists cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PrefetchError {
    /// The file is longer than a list may be.
    #[error("file is longer than {MAX_BYTES} bytes")]
    TooLarge,
    /// The file is no YAML, or has a field that is unknown, is there twice, or has a value of the wrong type.
    #[error("file cannot be read")]
    Parse(#[source] Box<serde_saphyr::Error>),
    /// The file has nothing in it: it may be about to be written.
    #[error("file holds no object")]
    Empty,
    /// The file has something else in it, or a version that is not known.
    #[error(
        "object must be of apiVersion {} and kind {KIND}, not {api_version:?} and {kind:?}",
        crate::config::API_VERSION
    )]
    Type {
        /// As written; empty where nothing is.
        api_version: String,
        /// As written; empty where nothing is.
        kind: String,
    },
    /// Fields have values that cannot be used.
    #[error("{KIND} {name:?} is invalid: {}", joined(errors))]
    Invalid {
        /// As written.
        name: String,
        /// What is wrong, in the order of the fields.
        errors: Vec<FieldError>,
    },
}

// === impl CheckedList ===

impl CheckedList {
    /// The lists of a file, one a document. All are good, or none is taken.
    pub fn parse_file(yaml: &str) -> Result<Vec<Self>, PrefetchError> {
        parse::file(yaml)
    }
}

fn joined(errors: &[FieldError]) -> String {
    errors.iter().map(FieldError::to_string).collect::<Vec<_>>().join("; ")
}
