//! Images and artifacts made in memory: layers, manifests, indexes, and OCI layouts on disk.

#![expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a fixture that cannot be made fails the test that wants it"
)]

mod layer;
mod layout;

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};

use imagevol_api::oci::Digest;
use imagevol_base::Digester;

pub use layer::{Compression, Entry, Layer, LayerBuilder};

/// Media type of an OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of an OCI image config.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of the empty JSON config of artifacts.
pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// Media type of a Docker schema 2 manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Media type of a Docker manifest list.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Media type of a Docker image config.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// Bytes with their media type, as a descriptor points at them.
#[derive(Debug, Clone)]
pub struct Blob {
    /// The descriptor's media type.
    pub media_type: String,
    /// The content.
    pub bytes: Bytes,
    /// SHA-256 of the content.
    pub digest: Digest,
    /// The descriptor's annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A manifest with the blobs that it names.
#[derive(Debug, Clone)]
pub struct Image {
    /// Media type of the manifest.
    pub media_type: String,
    /// The manifest as pushed.
    pub manifest: Bytes,
    /// SHA-256 of the manifest.
    pub digest: Digest,
    /// The config.
    pub config: Blob,
    /// The layers in order, lowest first.
    pub layers: Vec<Blob>,
    /// Uncompressed digests of the layers, for those made by [`LayerBuilder`].
    pub diff_ids: Vec<Digest>,
    /// What an index says of it.
    pub platform: Option<Value>,
}

/// An index with the manifests that it names.
#[derive(Debug, Clone)]
pub struct Index {
    /// Media type of the index.
    pub media_type: String,
    /// The index as pushed.
    pub manifest: Bytes,
    /// SHA-256 of the index.
    pub digest: Digest,
    /// Images in it.
    pub images: Vec<Image>,
    /// Indexes in it.
    pub indexes: Vec<Index>,
}

/// Makes an [`Image`]: by default an OCI image for linux/amd64 without layers.
#[derive(Debug, Clone)]
pub struct ImageBuilder {
    docker: bool,
    architecture: String,
    variant: Option<String>,
    os: String,
    layers: Vec<Blob>,
    diff_ids: Vec<Digest>,
    config: Option<Blob>,
    artifact_type: Option<String>,
    annotations: BTreeMap<String, String>,
    extra: serde_json::Map<String, Value>,
    config_extra: serde_json::Map<String, Value>,
}

// === impl Blob ===

impl Blob {
    /// Hashes `bytes`.
    pub fn new(media_type: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { digest: Digester::sha256(&bytes), media_type: media_type.into(), bytes, annotations: BTreeMap::new() }
    }

    /// The same blob whose descriptor has one more annotation.
    #[must_use]
    pub fn annotate(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// The descriptor as JSON.
    pub fn descriptor(&self) -> Value {
        descriptor(&self.media_type, &self.digest, self.bytes.len(), &self.annotations)
    }
}

// === impl Image ===

impl Image {
    /// The descriptor of the manifest, as an index holds it.
    pub fn descriptor(&self) -> Value {
        let mut value = descriptor(&self.media_type, &self.digest, self.manifest.len(), &BTreeMap::new());
        if let (Some(platform), Some(object)) = (&self.platform, value.as_object_mut()) {
            object.insert("platform".to_owned(), platform.clone());
        }
        value
    }

    /// Config and layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        std::iter::once(&self.config).chain(&self.layers)
    }

    /// The same image, which an index lists without a platform.
    #[must_use]
    pub fn without_platform(mut self) -> Self {
        self.platform = None;
        self
    }
}

// === impl Index ===

impl Index {
    /// An OCI index of `images`, in order.
    pub fn new(images: impl IntoIterator<Item = Image>) -> Self {
        Self::nested(images, [])
    }

    /// An OCI index of `images`, then of `indexes`.
    pub fn nested(images: impl IntoIterator<Item = Image>, indexes: impl IntoIterator<Item = Self>) -> Self {
        let images: Vec<Image> = images.into_iter().collect();
        let indexes: Vec<Self> = indexes.into_iter().collect();
        let entries: Vec<Value> =
            images.iter().map(Image::descriptor).chain(indexes.iter().map(Self::descriptor)).collect();
        let document = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
        let manifest = Bytes::from(serde_json::to_vec(&document).unwrap());
        Self { media_type: OCI_INDEX.to_owned(), digest: Digester::sha256(&manifest), manifest, images, indexes }
    }

    /// The descriptor of the index, as another index holds it.
    pub fn descriptor(&self) -> Value {
        descriptor(&self.media_type, &self.digest, self.manifest.len(), &BTreeMap::new())
    }
}

// === impl ImageBuilder ===

impl Default for ImageBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl ImageBuilder {
    /// An OCI image for linux/amd64 without layers.
    pub fn new() -> Self {
        Self {
            docker: false,
            architecture: "amd64".to_owned(),
            variant: None,
            os: "linux".to_owned(),
            layers: Vec::new(),
            diff_ids: Vec::new(),
            config: None,
            artifact_type: None,
            annotations: BTreeMap::new(),
            extra: serde_json::Map::new(),
            config_extra: serde_json::Map::new(),
        }
    }

    /// An artifact: the empty config and an artifact type.
    pub fn artifact(artifact_type: &str) -> Self {
        let mut builder = Self::new();
        builder.artifact_type = Some(artifact_type.to_owned());
        builder.config = Some(Blob::new(OCI_EMPTY, Bytes::from_static(b"{}")));
        builder
    }

    /// Docker schema 2 media types instead of OCI's.
    #[must_use]
    pub fn docker(mut self) -> Self {
        self.docker = true;
        self
    }

    /// What the config and an index say of the platform.
    #[must_use]
    pub fn platform(mut self, os: &str, architecture: &str, variant: Option<&str>) -> Self {
        os.clone_into(&mut self.os);
        architecture.clone_into(&mut self.architecture);
        self.variant = variant.map(str::to_owned);
        self
    }

    /// Adds a file system layer on top.
    #[must_use]
    pub fn layer(mut self, layer: Layer) -> Self {
        let Layer { mut blob, diff_id, compression, .. } = layer;
        if self.docker {
            compression.docker_media_type().clone_into(&mut blob.media_type);
        }
        self.diff_ids.push(diff_id);
        self.layers.push(blob);
        self
    }

    /// Adds any blob as a layer.
    #[must_use]
    pub fn blob(mut self, blob: Blob) -> Self {
        self.layers.push(blob);
        self
    }

    /// Adds a file of an artifact: a layer with `org.opencontainers.image.title`.
    #[must_use]
    pub fn file(self, title: &str, media_type: &str, content: impl Into<Bytes>) -> Self {
        self.blob(Blob::new(media_type, content).annotate("org.opencontainers.image.title", title))
    }

    /// Replaces the config.
    #[must_use]
    pub fn config(mut self, config: Blob) -> Self {
        self.config = Some(config);
        self
    }

    /// Sets a top-level field of the generated config.
    #[must_use]
    pub fn config_field(mut self, key: &str, value: Value) -> Self {
        self.config_extra.insert(key.to_owned(), value);
        self
    }

    /// Adds an annotation of the manifest.
    #[must_use]
    pub fn annotate(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets or replaces a top-level field of the manifest: for what no other method makes, and for hostile ones.
    #[must_use]
    pub fn field(mut self, key: &str, value: Value) -> Self {
        self.extra.insert(key.to_owned(), value);
        self
    }

    /// Serializes and hashes everything.
    pub fn build(self) -> Image {
        let config = self.config.clone().unwrap_or_else(|| self.image_config());
        let media_type = if self.docker { DOCKER_MANIFEST } else { OCI_MANIFEST };
        let mut document = json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": config.descriptor(),
            "layers": self.layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        let object = document.as_object_mut().unwrap();
        if let Some(artifact_type) = &self.artifact_type {
            object.insert("artifactType".to_owned(), json!(artifact_type));
        }
        if !self.annotations.is_empty() {
            object.insert("annotations".to_owned(), json!(self.annotations));
        }
        object.extend(self.extra.clone());
        let manifest = Bytes::from(serde_json::to_vec(&document).unwrap());
        Image {
            media_type: media_type.to_owned(),
            digest: Digester::sha256(&manifest),
            manifest,
            config,
            platform: Some(self.platform_json()),
            layers: self.layers,
            diff_ids: self.diff_ids,
        }
    }

    fn image_config(&self) -> Blob {
        let mut document = json!({
            "architecture": self.architecture,
            "os": self.os,
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": self.diff_ids },
        });
        let object = document.as_object_mut().unwrap();
        if let Some(variant) = &self.variant {
            object.insert("variant".to_owned(), json!(variant));
        }
        object.extend(self.config_extra.clone());
        let media_type = if self.docker { DOCKER_CONFIG } else { OCI_CONFIG };
        Blob::new(media_type, serde_json::to_vec(&document).unwrap())
    }

    fn platform_json(&self) -> Value {
        let mut platform = json!({ "architecture": self.architecture, "os": self.os });
        if let (Some(variant), Some(object)) = (&self.variant, platform.as_object_mut()) {
            object.insert("variant".to_owned(), json!(variant));
        }
        platform
    }
}

fn descriptor(media_type: &str, digest: &Digest, size: usize, annotations: &BTreeMap<String, String>) -> Value {
    let mut value = json!({ "mediaType": media_type, "digest": digest, "size": size });
    if let (false, Some(object)) = (annotations.is_empty(), value.as_object_mut()) {
        object.insert("annotations".to_owned(), json!(annotations));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_built_image_names_its_blobs() {
        let layer = LayerBuilder::new().dir("dir").file("dir/file", "2").gzip();
        let image = ImageBuilder::new().layer(layer.clone()).build();
        let manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
        assert_eq!(manifest["layers"][0]["digest"], json!(layer.blob.digest));
        assert_eq!(manifest["config"]["mediaType"], OCI_CONFIG);
        let config: Value = serde_json::from_slice(&image.config.bytes).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], json!(layer.diff_id));
    }

    #[test]
    fn an_artifact_keeps_titles() {
        let image = ImageBuilder::artifact("application/vnd.test").file("a/b", "text/plain", "x").build();
        let manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
        assert_eq!(manifest["layers"][0]["annotations"]["org.opencontainers.image.title"], "a/b");
        assert_eq!(manifest["artifactType"], "application/vnd.test");
    }
}
