//! Manifests and indexes: bytes of a registry become closed types, or an error that says why not.
//!
//! The media type and the shape of a document must agree, so that one body is never two things (CVE-2021-41190).

mod media;
mod parse;

use std::collections::BTreeMap;

use imagevol_api::oci::Digest;

use crate::platform::Platform;

pub use media::LayerEncoding;
pub(crate) use media::{ACCEPT, MediaType};
pub use parse::{Document, parse};

/// The annotation by which BuildKit marks attestations in an index (BuildKit, `attestation-storage.md`).
const ATTESTATION_KEY: &str = "vnd.docker.reference.type";
/// Its value.
const ATTESTATION: &str = "attestation-manifest";

/// Points at content. Its `urls` are never read: nothing is fetched from where an image says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Media type, as written; visible ASCII of at most 255 characters.
    pub media_type: String,
    /// What the content hashes to.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Annotations, as written: any text.
    pub annotations: BTreeMap<String, String>,
}

/// A checked image manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its own media type.
    pub media_type: String,
    /// The config.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// What kind of artifact it says to be.
    pub artifact_type: Option<String>,
    /// Annotations, as written: any text.
    pub annotations: BTreeMap<String, String>,
}

/// How a manifest's layers make a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestKind {
    /// Layers are tar archives, one upon the other.
    Image,
    /// Layers are files.
    Artifact,
}

/// A checked entry of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it points at.
    pub descriptor: Descriptor,
    /// For which platform that is, if it says so.
    pub platform: Option<Platform>,
}

/// Why a document is not acceptable as a manifest or index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It is no JSON, or a field has the wrong type.
    #[error("not a valid document: {reason}")]
    Syntax {
        /// What the parser says, fit to be shown.
        reason: String,
    },
    /// It is of Docker's first form, which has no verifiable content and which runtimes have dropped.
    #[error("Docker image manifest version 1 is not supported; push the image again with a current tool")]
    Schema1,
    /// The media type is none that can be mounted.
    #[error("media type {media_type:?} is neither an image manifest nor an index")]
    MediaType {
        /// What it says.
        media_type: String,
    },
    /// Neither the document nor the answer says what it is.
    #[error("neither the document nor the answer has a media type")]
    NoMediaType,
    /// The document says another media type than the answer or the descriptor that led to it.
    #[error("document says media type {document:?}, but {elsewhere:?} is expected")]
    Disagreement {
        /// The document's `mediaType`.
        document: String,
        /// The header's or the descriptor's.
        elsewhere: String,
    },
    /// Fields contradict the media type: a manifest with `manifests`, an index with `layers`.
    #[error("fields do not fit media type {media_type:?}: {reason}")]
    Shape {
        /// What it says to be.
        media_type: String,
        /// Which field is missing or too much.
        reason: &'static str,
    },
    /// There are more layers than the limit.
    #[error("{count} layers; at most {limit} are supported")]
    Layers {
        /// How many.
        count: usize,
        /// How many may be.
        limit: usize,
    },
    /// There are more entries in the index than the limit.
    #[error("{count} entries in the index; at most {limit} are supported")]
    Entries {
        /// How many.
        count: usize,
        /// How many may be.
        limit: usize,
    },
    /// Indexes lie in indexes too deeply, or there are too many of them.
    #[error("indexes are nested too deeply")]
    Depth,
    /// The size in the descriptor is not that of the document.
    #[error("document has {actual} bytes, but its descriptor says {expected}")]
    Size {
        /// The descriptor's.
        expected: u64,
        /// The document's.
        actual: u64,
    },
}

// === impl Descriptor ===

impl Descriptor {
    /// How the content is compressed, if the media type is that of a file system layer.
    pub fn layer_encoding(&self) -> Option<LayerEncoding> {
        LayerEncoding::of(&self.media_type)
    }
}

// === impl Manifest ===

impl Manifest {
    /// An image if the config is an image's and every layer a file system layer; else an artifact.
    pub fn kind(&self) -> ManifestKind {
        let layers = self.layers.iter().all(|layer| layer.layer_encoding().is_some());
        if layers && media::is_image_config(&self.config.media_type) {
            return ManifestKind::Image;
        }
        ManifestKind::Artifact
    }
}

// === impl Entry ===

impl Entry {
    /// Whether it describes another entry and is nothing to mount.
    pub fn is_attestation(&self) -> bool {
        self.platform.as_ref().is_some_and(Platform::is_unknown)
            || self.descriptor.annotations.get(ATTESTATION_KEY).is_some_and(|value| value == ATTESTATION)
    }
}

#[cfg(test)]
mod tests;
