//! Images: a record of what they are made of, and the files that the kernel mounts.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::Path;

use imagevol_api::oci::Digest;
use imagevol_erofs::Device;
use serde::{Deserialize, Serialize};

use crate::content::ContentKey;
use crate::durable;
use crate::rows::IMAGES;
use crate::store::Store;
use crate::{Result, StoreError};

/// What the layers of an image are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageKind {
    /// Layers of one root file system.
    Image,
    /// Files.
    Artifact,
}

/// What an image is made of: its row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImageRecord {
    /// Digest of its manifest: its identity.
    pub manifest: Digest,
    /// Media type of its manifest.
    pub media_type: String,
    /// What its layers are.
    pub kind: ImageKind,
    /// `artifactType`, or the config's media type of an artifact without one.
    pub artifact_type: Option<String>,
    /// Digest of its config. That of an artifact is a name only: nothing mounts it, and it is not kept.
    pub config: Digest,
    /// In the manifest's order.
    pub layers: Vec<LayerRecord>,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// Bytes of its files on disk, shared content included. Set by [`Store::commit_image`].
    pub size: u64,
    /// Bytes of its EROFS file. Set by [`Store::commit_image`].
    pub index_bytes: u64,
    /// SHA-256 of its EROFS file. Set by [`Store::commit_image`].
    pub index_digest: Option<Digest>,
    /// When it was pulled last, seconds since 1970. Set by [`Store::commit_image`].
    pub pulled_at: i64,
}

/// One layer of an image, or one file of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LayerRecord {
    /// As the registry names it.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its bytes in the registry.
    pub size: u64,
    /// Where its bytes are.
    pub content: ContentKey,
    /// Its bytes on disk, without padding.
    pub stored_size: u64,
    /// Its name as a file of an artifact.
    pub title: Option<String>,
}

/// The files that a mount of an image needs, open.
#[derive(Debug)]
pub struct ImageFiles {
    /// The EROFS file.
    pub image: File,
    /// Its devices, in the order of its device table.
    pub devices: Vec<File>,
}

/// The devices of an image: each piece of content that has bytes, once, in the order of first use.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    sizes: Vec<(ContentKey, u64)>,
    positions: HashMap<ContentKey, u16>,
}

// === impl ImageRecord ===

impl ImageRecord {
    /// Everything that it is made of.
    pub(crate) fn content(&self) -> Vec<ContentKey> {
        let config = (self.kind == ImageKind::Image).then_some(&self.config);
        let own = std::iter::once(&self.manifest).chain(config).map(|digest| ContentKey::Blob(digest.clone()));
        let mut keys: Vec<_> = own.chain(self.layers.iter().map(|layer| layer.content.clone())).collect();
        keys.sort();
        keys.dedup();
        keys
    }

    /// The content that its EROFS file points into.
    pub(crate) fn devices(&self) -> Devices {
        let mut devices = Devices::default();
        for layer in self.layers.iter().filter(|layer| layer.stored_size > 0) {
            devices.add(&layer.content, layer.stored_size);
        }
        devices
    }
}

// === impl Devices ===

impl Devices {
    fn add(&mut self, key: &ContentKey, size: u64) {
        // More than 65,535 are refused when the device table is written.
        let next = u16::try_from(self.sizes.len()).unwrap_or(u16::MAX);
        if !self.positions.contains_key(key) {
            self.positions.insert(key.clone(), next);
            self.sizes.push((key.clone(), size));
        }
    }

    /// Position of content in the device table. Content without bytes has no device, and no file points at one.
    pub(crate) fn position(&self, key: &ContentKey) -> u16 {
        self.positions.get(key).copied().unwrap_or(u16::MAX)
    }

    /// The content, in the order of the device table.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &ContentKey> {
        self.sizes.iter().map(|(key, _)| key)
    }

    /// The device table, which binds each slot to its content.
    pub(crate) fn table(&self) -> Result<Vec<Device>> {
        let device =
            |(key, size): &(ContentKey, u64)| Ok(Device::new(&key.digest().to_string(), durable::padded(*size))?);
        self.sizes.iter().map(device).collect()
    }
}

// === impl Store ===

impl Store {
    /// Opens what a mount of the image needs. The files stay readable while open or mounted, even if they are deleted.
    pub fn open_image(&self, manifest: &Digest) -> Result<ImageFiles> {
        let image = self.image(manifest)?;
        let open = |path: &Path| File::open(path).map_err(StoreError::io("open", path));
        let devices = image.devices();
        let devices = devices.keys().map(|key| open(&self.inner.layout.content(key)));
        Ok(ImageFiles { devices: devices.collect::<Result<_>>()?, image: open(&self.inner.layout.image(manifest))? })
    }

    /// The image of a digest, or why there is none.
    pub(crate) fn image(&self, digest: &Digest) -> Result<ImageRecord> {
        let record = self.rows().get(IMAGES, &digest.to_string())?;
        record.ok_or_else(|| StoreError::NoImage(digest.to_string()))
    }
}
