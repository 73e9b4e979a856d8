//! What a manifest asks to be fetched, and how each piece is kept. Pure: manifest and config in, plan out.

use imagevol_api::oci::Digest;
use imagevol_layer::artifact;
use imagevol_registry::{Descriptor, Manifest, ManifestKind};
use imagevol_store::{Compression, Form};
use serde::Deserialize;

/// One piece of content of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerPlan {
    /// As the registry names it.
    pub descriptor: Descriptor,
    /// How it is kept.
    pub form: Form,
    /// Its name as a file of an artifact.
    pub title: Option<String>,
}

/// Why an image cannot be mounted, whatever its layers hold.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The config of an image is no OCI image configuration.
    #[error("image configuration cannot be read: {0}")]
    Config(#[source] serde_json::Error),
    /// The config names more or fewer layers than the manifest (OCI image spec, config.md, `rootfs.diff_ids`).
    #[error("image configuration names {diff_ids} layers, the manifest {layers}")]
    LayerCount {
        /// Length of `rootfs.diff_ids`.
        diff_ids: usize,
        /// Layers of the manifest.
        layers: usize,
    },
    /// A layer of an image is of a type that is no tar.
    #[error("layer {digest} has the media type {media_type:?}, which is no layer")]
    MediaType {
        /// The layer.
        digest: Digest,
        /// Its type.
        media_type: String,
    },
    /// An artifact's file has a name that cannot be used.
    #[error("layer {digest}")]
    Title {
        /// The layer.
        digest: Digest,
        /// What is wrong with its name.
        #[source]
        source: imagevol_layer::LayerError,
    },
}

/// The part of an image configuration that counts here: nothing else of it is read.
/// Go writes no list, or `null`, for an empty one.
#[derive(Debug, Deserialize)]
struct ImageConfig {
    rootfs: Option<RootFs>,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    diff_ids: Option<Vec<Digest>>,
}

/// Plans the layers of a manifest. `config` holds the bytes of the config for an image; an artifact's is not read.
pub fn plan(manifest: &Manifest, config: &[u8]) -> Result<Vec<LayerPlan>, PlanError> {
    match manifest.kind() {
        ManifestKind::Image => image(manifest, config),
        ManifestKind::Artifact => manifest.layers.iter().map(artifact_layer).collect(),
    }
}

fn image(manifest: &Manifest, config: &[u8]) -> Result<Vec<LayerPlan>, PlanError> {
    let config: ImageConfig = serde_json::from_slice(config).map_err(PlanError::Config)?;
    let diff_ids = config.rootfs.and_then(|rootfs| rootfs.diff_ids).unwrap_or_default();
    let layers = &manifest.layers;
    if diff_ids.len() != layers.len() {
        return Err(PlanError::LayerCount { diff_ids: diff_ids.len(), layers: layers.len() });
    }
    layers.iter().zip(diff_ids).map(|(descriptor, diff_id)| image_layer(descriptor, diff_id)).collect()
}

fn image_layer(descriptor: &Descriptor, diff_id: Digest) -> Result<LayerPlan, PlanError> {
    let compression = Compression::of_media_type(&descriptor.media_type).ok_or_else(|| PlanError::MediaType {
        digest: descriptor.digest.clone(),
        media_type: descriptor.media_type.clone(),
    })?;
    let form = Form::Layer { compression, diff_id: Some(diff_id) };
    Ok(LayerPlan { descriptor: descriptor.clone(), form, title: None })
}

/// A tar is unpacked, anything else is a file, and so is a file that ORAS calls a tar. A layer that its maker marked as a packed directory
/// is unpacked by what it holds.
fn artifact_layer(descriptor: &Descriptor) -> Result<LayerPlan, PlanError> {
    let unpack = if artifact::is_marked_for_unpacking(&descriptor.annotations) {
        Some(Compression::of_media_type(&descriptor.media_type).unwrap_or(Compression::Detect))
    } else if artifact::is_untyped_file(&descriptor.media_type, &descriptor.annotations) {
        None
    } else if artifact::is_tar_media_type(&descriptor.media_type) {
        Compression::of_media_type(&descriptor.media_type)
    } else {
        None
    };
    if let Some(compression) = unpack {
        let form = Form::Layer { compression, diff_id: None };
        return Ok(LayerPlan { descriptor: descriptor.clone(), form, title: None });
    }
    let title = artifact::title_for(&descriptor.annotations, &descriptor.digest.to_string())
        .map_err(|source| PlanError::Title { digest: descriptor.digest.clone(), source })?;
    // A title is made of a string's bytes, split only at `/`.
    let name = String::from_utf8_lossy(title.path().as_bytes()).into_owned();
    Ok(LayerPlan { descriptor: descriptor.clone(), form: Form::Blob, title: Some(name) })
}

#[cfg(test)]
mod tests;
