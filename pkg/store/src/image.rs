//! Images: a record of what they are made of, and one metadata-only EROFS file that the kernel mounts.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use imagevol_api::oci::{Algorithm, Digest, Reference as ImageReference};
use imagevol_base::{Digester, Holder};
use imagevol_erofs::{Device, Tree};
use imagevol_layer::artifact::{self, Title};
use imagevol_layer::{LayerIndex, Merger};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::content::ContentKey;
use crate::durable;
use crate::references::Reference;
use crate::rows::{CONTENT, IMAGES, NAMES, REFERENCES};
use crate::store::{Store, now};
use crate::{Content, Result, StoreError};

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
    /// Digest of its config.
    pub config: Digest,
    /// In the manifest's order.
    pub layers: Vec<LayerRecord>,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// Bytes on disk, shared content included.
    pub size: u64,
    /// Bytes of its EROFS file.
    pub index_bytes: u64,
    /// Digest of its EROFS file.
    pub index_digest: Option<Digest>,
    /// When it was pulled last, seconds since 1970.
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

// === impl ImageRecord ===

impl ImageRecord {
    /// Everything that it is made of.
    pub(crate) fn content(&self) -> Vec<ContentKey> {
        let own = [&self.manifest, &self.config].map(|digest| ContentKey::Blob(digest.clone()));
        let mut keys: Vec<_> = own.into_iter().chain(self.layers.iter().map(|layer| layer.content.clone())).collect();
        keys.sort();
        keys.dedup();
        keys
    }

    /// The content of its devices: each piece once, in the order of first use.
    pub(crate) fn devices(&self) -> Vec<(ContentKey, u64)> {
        let mut devices: Vec<(ContentKey, u64)> = Vec::new();
        for layer in self.layers.iter().filter(|layer| layer.stored_size > 0) {
            if !devices.iter().any(|(key, _)| *key == layer.content) {
                devices.push((layer.content.clone(), layer.stored_size));
            }
        }
        devices
    }
}

// === impl Store ===

impl Store {
    /// Writes the image's EROFS file, its row, its names, and binds the holder: all visible at once.
    ///
    /// The caller holds leases on all content. `names` are normalized references.
    pub fn commit_image(
        &self,
        mut image: ImageRecord,
        names: &[ImageReference],
        holder: &Holder,
    ) -> Result<ImageRecord> {
        let path = self.inner.layout.image(&image.manifest);
        if let Ok(known) = self.image(&image.manifest) {
            image.index_bytes = known.index_bytes;
            image.index_digest = known.index_digest;
        } else {
            (image.index_bytes, image.index_digest) = self.write_index(&image, &path)?;
        }
        let layers: u64 = image.devices().iter().map(|(_, size)| durable::padded(*size)).sum();
        image.size = layers + image.index_bytes;
        image.pulled_at = now();
        self.write_rows(&image, names, holder)?;
        Ok(image)
    }

    /// Killed after the rename: an EROFS file that no row names, deleted at start.
    fn write_index(&self, image: &ImageRecord, path: &Path) -> Result<(u64, Option<Digest>)> {
        let tree = self.tree(image)?;
        let devices = device_table(image)?;
        let limits = self.inner.limits;
        let limits =
            imagevol_erofs::Limits { max_image_bytes: limits.max_index_bytes, max_entries: limits.max_entries };
        let parent = path.parent().unwrap_or(Path::new("/"));
        let mut file = NamedTempFile::new_in(parent).map_err(StoreError::io("create in", parent))?;
        let written = imagevol_erofs::write(&tree, &devices, &limits, file.as_file_mut())?;
        file.as_file().sync_all().map_err(StoreError::io("sync", path))?;
        let digest = hash_file(file.path())?;
        file.persist(path).map_err(|error| StoreError::io("rename to", path)(error.error))?;
        durable::sync_parent(path)?;
        Ok((written.bytes, Some(digest)))
    }

    fn tree(&self, image: &ImageRecord) -> Result<Tree> {
        match image.kind {
            ImageKind::Image => self.merged_tree(image),
            ImageKind::Artifact => self.artifact_tree(image),
        }
    }

    fn merged_tree(&self, image: &ImageRecord) -> Result<Tree> {
        let devices = image.devices();
        let mut merger = Merger::new(self.layer_limits());
        for layer in &image.layers {
            let ContentKey::Layer(diff_id) = &layer.content else { continue };
            merger.add(device_of(&devices, &layer.content), &self.layer_index(diff_id)?)?;
        }
        Ok(merger.finish())
    }

    fn artifact_tree(&self, image: &ImageRecord) -> Result<Tree> {
        let devices = image.devices();
        let mut indexes = Vec::new();
        for layer in &image.layers {
            indexes.push(match &layer.content {
                ContentKey::Blob(_) => None,
                ContentKey::Layer(diff_id) => Some(self.layer_index(diff_id)?),
            });
        }
        let items = image.layers.iter().zip(&indexes).map(|(layer, index)| {
            let device = device_of(&devices, &layer.content);
            let title = layer.title.clone().unwrap_or_else(|| layer.digest.to_string());
            Ok(match index {
                Some(index) => artifact::Item::Archive { index, device, under: None },
                None => artifact::Item::File { title: Title::parse(&title)?, size: layer.stored_size, device },
            })
        });
        Ok(artifact::assemble(items.collect::<Result<Vec<_>>>()?, self.layer_limits())?)
    }

    fn layer_limits(&self) -> imagevol_layer::Limits {
        imagevol_layer::Limits { max_entries: self.inner.limits.max_entries, ..Default::default() }
    }

    fn layer_index(&self, diff_id: &Digest) -> Result<LayerIndex> {
        let path = self.inner.layout.layer_index(diff_id);
        let bytes = std::fs::read(&path).map_err(StoreError::io("read", &path))?;
        Ok(LayerIndex::from_bytes(&bytes)?)
    }

    /// One transaction: content still there, image, names, and the holder's row.
    fn write_rows(&self, image: &ImageRecord, names: &[ImageReference], holder: &Holder) -> Result<()> {
        let write = self.rows().write()?;
        for key in image.content() {
            let content: Option<Content> = write.get(CONTENT, &key.to_string())?;
            content.ok_or_else(|| StoreError::MissingContent(key.to_string()))?;
        }
        write.put(IMAGES, &image.manifest.to_string(), image)?;
        for name in names {
            write.put(NAMES, &name.to_string(), &image.manifest)?;
        }
        let key = holder.to_string();
        let row: Option<Reference> = write.get(REFERENCES, &key)?;
        let fallback = || names.first().map_or_else(|| image.manifest.to_string(), ToString::to_string);
        let row = row.unwrap_or_else(|| Reference { reference: fallback(), image: None, since: now() });
        write.put(REFERENCES, &key, &Reference { image: Some(image.manifest.clone()), ..row })?;
        write.commit()
    }

    /// Opens what a mount of the image needs. The files stay readable while open or mounted, even if they are deleted.
    pub fn open_image(&self, manifest: &Digest) -> Result<ImageFiles> {
        let image = self.image(manifest)?;
        let open = |path: &Path| File::open(path).map_err(StoreError::io("open", path));
        let devices = image.devices();
        let devices = devices.iter().map(|(key, _)| open(&self.inner.layout.content(key)));
        Ok(ImageFiles { devices: devices.collect::<Result<_>>()?, image: open(&self.inner.layout.image(manifest))? })
    }
}

/// The device table that binds each slot to its content.
pub(crate) fn device_table(image: &ImageRecord) -> Result<Vec<Device>> {
    let device = |(key, size): (ContentKey, u64)| Ok(Device::new(&key.digest().to_string(), durable::padded(size))?);
    image.devices().into_iter().map(device).collect()
}

/// Position of content in the device table. Content without bytes has no device, and no file points at one.
fn device_of(devices: &[(ContentKey, u64)], key: &ContentKey) -> u16 {
    let position = devices.iter().position(|(known, _)| known == key);
    position.and_then(|position| u16::try_from(position).ok()).unwrap_or(u16::MAX)
}

/// SHA-256 of a whole file.
pub(crate) fn hash_file(path: &Path) -> Result<Digest> {
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    hash(Algorithm::Sha256, file, path)
}

/// Digest of what a reader holds.
pub(crate) fn hash(algorithm: Algorithm, mut reader: impl std::io::Read, path: &Path) -> Result<Digest> {
    let mut digester = Digester::new(algorithm);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let count = reader.read(&mut buffer).map_err(StoreError::io("read", path))?;
        if count == 0 {
            return Ok(digester.finish());
        }
        digester.update(buffer.get(..count).unwrap_or_default());
    }
}
