//! Images that come before a pod asks for them: prefetched, or imported.

use serde::{Deserialize, Serialize};

use super::BlobProgress;
use crate::oci::Digest;

/// What is kept present, or was fetched ahead.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrefetchList {
    /// By list, in its order; then those by command.
    pub items: Vec<Prefetched>,
    /// Files that cannot be used, a sentence each.
    pub problems: Vec<String>,
}

/// One image that is kept present, or was fetched ahead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Prefetched {
    /// The name of the list; absent for one by command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub list: Option<String>,
    /// The reference as it was written.
    pub reference: String,
    /// How far it is.
    pub phase: PrefetchPhase,
    /// The image that is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Digest>,
    /// Why the last pull failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When the registry is asked again, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_pull: Option<String>,
    /// When it is no longer kept, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// How far each blob of a pull under way has come.
    pub blobs: Vec<BlobProgress>,
}

/// How far a prefetch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PrefetchPhase {
    /// Nothing was tried yet.
    Waiting,
    /// It is being pulled.
    Pulling,
    /// It is here and kept.
    Present,
    /// The last pull failed; there will be another.
    Failed,
    /// It was used, or its time is over: it is kept no longer.
    Ended,
}

/// A prefetch by command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PrefetchRequest {
    /// What to pull.
    pub reference: String,
    /// How long it is kept if no pod uses it, seconds.
    pub keep_seconds: u64,
}

/// A line of an import's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum ImportEvent {
    /// How many bytes have come in; sent while the import runs.
    Progress {
        /// Bytes of the tar.
        bytes: u64,
    },
    /// An image was imported.
    Imported {
        /// The references that lead to it now.
        names: Vec<String>,
        /// The manifest digest.
        id: Digest,
        /// Bytes on disk.
        size: u64,
    },
    /// All images were imported; the last line.
    Done,
    /// The import failed; the last line. What was imported before stays.
    Failed {
        /// For the user.
        message: String,
    },
}

/// The header of an export's answer that lists its images: JSON, an array of [`ExportedImage`].
pub const EXPORTED_IMAGES: &str = "imagevol-images";

/// An image of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportedImage {
    /// As it was asked for.
    pub reference: String,
    /// The manifest digest in the node's store.
    pub image: Digest,
    /// The manifest digest in the archive: another one if layers were compressed where they came from.
    pub exported: Digest,
}
