//! From bytes to checked documents.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use imagevol_api::oci::Digest;

use super::{Descriptor, Entry, Manifest, ManifestError, MediaType};
use crate::config::Limits;
use crate::platform::RawPlatform;
use crate::text::shown;

/// Longest media type: 127 characters on each side of the `/` (RFC 6838, section 4.2).
const MEDIA_TYPE_MAX: usize = 255;
/// Content types that say nothing about what the document is; some registries and most proxies use one.
const GENERIC: [&str; 5] =
    ["application/json", "application/octet-stream", "binary/octet-stream", "text/plain", "application/problem+json"];

/// What a body turned out to be.
#[derive(Debug)]
pub enum Document {
    /// An image's or an artifact's manifest.
    Manifest(Box<Manifest>),
    /// An index, whose entries are manifests and indexes.
    Index(Vec<Entry>),
}

/// The fields of all kinds of documents, so that those that do not belong are seen.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawEntry>>,
    fs_layers: Option<IgnoredAny>,
    signatures: Option<IgnoredAny>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    media_type: String,
    digest: Digest,
    size: u64,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct RawEntry {
    #[serde(flatten)]
    descriptor: RawDescriptor,
    platform: Option<RawPlatform>,
}

/// Parses a manifest or index. `expected` is the answer's `Content-Type`, or the media type of the descriptor that led here.
pub fn parse(bytes: &[u8], expected: Option<&str>, limits: &Limits) -> Result<Document, ManifestError> {
    let raw: Raw = serde_json::from_slice(bytes).map_err(|error| syntax(&error))?;
    if raw.schema_version == Some(1) || raw.fs_layers.is_some() || raw.signatures.is_some() {
        return Err(ManifestError::Schema1);
    }
    let media_type = agree(raw.media_type.as_deref(), expected)?.to_owned();
    let shape = |reason| ManifestError::Shape { media_type: media_type.clone(), reason };
    if raw.schema_version != Some(2) {
        return Err(shape("schemaVersion is not 2"));
    }
    match MediaType::of(&media_type) {
        Some(MediaType::Schema1) => Err(ManifestError::Schema1),
        Some(MediaType::Manifest) if raw.manifests.is_some() => Err(shape("an image manifest has no manifests")),
        Some(MediaType::Manifest) => raw.into_manifest(media_type, limits),
        Some(MediaType::Index) if raw.config.is_some() || raw.layers.is_some() => {
            Err(shape("an index has neither config nor layers"))
        }
        Some(MediaType::Index) => raw.into_index(media_type, limits),
        None => Err(ManifestError::MediaType { media_type: shown(&media_type, &[]) }),
    }
}

/// One media type that document and answer agree on.
fn agree<'t>(document: Option<&'t str>, expected: Option<&'t str>) -> Result<&'t str, ManifestError> {
    let essence = expected.map(|text| text.split(';').next().unwrap_or(text).trim());
    let elsewhere = essence.filter(|text| !text.is_empty() && !GENERIC.contains(text));
    match (document.filter(|text| !text.is_empty()), elsewhere) {
        (Some(document), Some(elsewhere)) if document != elsewhere => {
            Err(ManifestError::Disagreement { document: shown(document, &[]), elsewhere: shown(elsewhere, &[]) })
        }
        (Some(agreed), _) | (None, Some(agreed)) => Ok(agreed),
        (None, None) => Err(ManifestError::NoMediaType),
    }
}

fn syntax(error: &serde_json::Error) -> ManifestError {
    ManifestError::Syntax { reason: shown(&error.to_string(), &[]) }
}

// === impl Raw ===

impl Raw {
    /// A missing list of layers is an empty one: that is how Go writes a nil slice.
    fn into_manifest(self, media_type: String, limits: &Limits) -> Result<Document, ManifestError> {
        let Some(config) = self.config else {
            return Err(ManifestError::Shape { media_type, reason: "an image manifest has a config" });
        };
        let layers = self.layers.unwrap_or_default();
        if layers.len() > limits.layers {
            return Err(ManifestError::Layers { count: layers.len(), limit: limits.layers });
        }
        Ok(Document::Manifest(Box::new(Manifest {
            media_type,
            config: config.check()?,
            layers: layers.into_iter().map(RawDescriptor::check).collect::<Result<_, _>>()?,
            artifact_type: self.artifact_type.filter(|text| !text.is_empty()),
            annotations: self.annotations.unwrap_or_default(),
        })))
    }

    fn into_index(self, media_type: String, limits: &Limits) -> Result<Document, ManifestError> {
        let Some(entries) = self.manifests else {
            return Err(ManifestError::Shape { media_type, reason: "an index has manifests" });
        };
        if entries.len() > limits.index_entries {
            return Err(ManifestError::Entries { count: entries.len(), limit: limits.index_entries });
        }
        Ok(Document::Index(entries.into_iter().map(RawEntry::check).collect::<Result<_, _>>()?))
    }
}

// === impl RawDescriptor ===

impl RawDescriptor {
    fn check(self) -> Result<Descriptor, ManifestError> {
        let visible = self.media_type.bytes().all(|byte| byte.is_ascii_graphic());
        if !visible || self.media_type.is_empty() || self.media_type.len() > MEDIA_TYPE_MAX {
            return Err(ManifestError::MediaType { media_type: shown(&self.media_type, &[]) });
        }
        Ok(Descriptor {
            media_type: self.media_type,
            digest: self.digest,
            size: self.size,
            annotations: self.annotations.unwrap_or_default(),
        })
    }
}

// === impl RawEntry ===

impl RawEntry {
    fn check(self) -> Result<Entry, ManifestError> {
        Ok(Entry { descriptor: self.descriptor.check()?, platform: self.platform.map(Into::into) })
    }
}
