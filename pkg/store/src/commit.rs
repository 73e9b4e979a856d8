//! Commit of an image: its EROFS file is built beside all else, and becomes visible with its row, its names and its holder's.

use std::path::Path;

use imagevol_api::oci::Digest;
use imagevol_base::Holder;
use imagevol_erofs::{Tree, WriteError};
use imagevol_layer::artifact::{self, Title};
use imagevol_layer::{LayerIndex, Merger};
use tempfile::NamedTempFile;

use crate::content::ContentKey;
use crate::durable;
use crate::hash::hash_file;
use crate::image::Devices;
use crate::references::{ImageName, Reference};
use crate::rows::{CONTENT, IMAGES, REFERENCES, Write};
use crate::store::{Store, now};
use crate::{Content, ImageKind, ImageRecord, LayerRecord, Result, StoreError};

/// An image whose EROFS file is written and synced, and not visible.
pub(crate) struct Built {
    pub(crate) image: ImageRecord,
    pub(crate) file: NamedTempFile,
}

/// What leads to an image that is committed.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    names: &'a [ImageName],
    holder: &'a Holder,
}

// === impl Store ===

impl Store {
    /// Writes the image's EROFS file, its row, its names, and binds the holder: all visible at once. An image that is here is kept
    /// as it is and gets the names.
    ///
    /// The caller holds leases on all content.
    pub fn commit_image(&self, image: ImageRecord, names: &[ImageName], holder: &Holder) -> Result<ImageRecord> {
        if let Some(known) = self.commit_present(&image.manifest, names, holder)? {
            return Ok(known);
        }
        let built = self.build(image)?;
        self.commit_built(built, Wanted { names, holder })
    }

    /// The same for an image that is here with all its files. `None` if it is not, or if files of it are gone: it must be fetched.
    pub fn commit_present(
        &self,
        manifest: &Digest,
        names: &[ImageName],
        holder: &Holder,
    ) -> Result<Option<ImageRecord>> {
        // Held while rows are written: an image that is being removed keeps neither its row nor its file.
        let _no_deletion = self.inner.leases.lock();
        let write = self.rows().write()?;
        let known = self.whole_image(&write, manifest)?;
        known.map(|known| self.write_rows(write, known, Wanted { names, holder })).transpose()
    }

    fn whole_image(&self, write: &Write<'_>, manifest: &Digest) -> Result<Option<ImageRecord>> {
        let image: Option<ImageRecord> = write.get(IMAGES, &manifest.to_string())?;
        let Some(image) = image else { return Ok(None) };
        if durable::length(&self.inner.layout.image(manifest))? != Some(image.index_bytes) {
            return Ok(None);
        }
        for key in image.content() {
            let content: Option<Content> = write.get(CONTENT, &key.to_string())?;
            if !content.map_or(Ok(false), |content| self.inner.has_files(&key, &content))? {
                return Ok(None);
            }
        }
        Ok(Some(image))
    }

    fn commit_built(&self, built: Built, wanted: Wanted<'_>) -> Result<ImageRecord> {
        let Built { mut image, file } = built;
        let path = self.inner.layout.image(&image.manifest);
        let _no_deletion = self.inner.leases.lock();
        let write = self.rows().write()?;
        if let Some(known) = self.whole_image(&write, &image.manifest)? {
            // Another pull was faster; what was built goes with its file.
            return self.write_rows(write, known, wanted);
        }
        image.size = image.index_bytes + content_bytes(&write, &image)?;
        // Killed after this: an EROFS file that no row names, deleted at start.
        durable::persist(file, &path)?;
        self.write_rows(write, image, wanted)
    }

    /// One transaction: image, names, and the holder's row.
    fn write_rows(&self, write: Write<'_>, image: ImageRecord, wanted: Wanted<'_>) -> Result<ImageRecord> {
        let image = ImageRecord { pulled_at: now(), ..image };
        write.put_image(&image)?;
        write.see(&self.inner.clock, &image.manifest)?;
        for name in wanted.names {
            write.put_name(name.as_str(), &image.manifest)?;
        }
        let key = wanted.holder.to_string();
        // A holder that has given its row up meanwhile gets none back: nobody would take it away again.
        if let Some(row) = write.get::<Reference>(REFERENCES, &key)? {
            write.put(REFERENCES, &key, &Reference { image: Some(image.manifest.clone()), ..row })?;
            write.drop_used_up(wanted.holder, &image)?;
        }
        // Killed before this: nothing has happened but the file.
        write.commit()?;
        Ok(image)
    }

    /// Killed here: a `.tmp` file that no row names, deleted at start.
    pub(crate) fn build(&self, mut image: ImageRecord) -> Result<Built> {
        let devices = image.devices();
        let tree = self.tree(&image, &devices)?;
        let limits = imagevol_erofs::Limits {
            max_image_bytes: self.inner.limits.max_index_bytes,
            max_entries: self.inner.limits.max_entries,
        };
        let path = self.inner.layout.image(&image.manifest);
        let parent = path.parent().unwrap_or(Path::new("/"));
        let mut file = NamedTempFile::new_in(parent).map_err(StoreError::io("create in", parent))?;
        let written = imagevol_erofs::write(&tree, &devices.table()?, &limits, file.as_file_mut());
        image.index_bytes = written.map_err(|error| of_write(error, file.path()))?.bytes;
        file.as_file().sync_all().map_err(StoreError::io("sync", file.path()))?;
        image.index_digest = Some(hash_file(file.path())?);
        Ok(Built { image, file })
    }

    fn tree(&self, image: &ImageRecord, devices: &Devices) -> Result<Tree> {
        match image.kind {
            ImageKind::Image => self.merged_tree(image, devices),
            ImageKind::Artifact => self.artifact_tree(image, devices),
        }
    }

    /// One layer's index in memory at a time.
    fn merged_tree(&self, image: &ImageRecord, devices: &Devices) -> Result<Tree> {
        let mut merger = Merger::new(self.inner.limits.of_layers());
        for layer in &image.layers {
            let index = self.layer_index(layer)?.ok_or_else(|| StoreError::NotALayer(layer.content.to_string()))?;
            merger.add(devices.position(&layer.content), &index)?;
        }
        Ok(merger.finish())
    }

    fn artifact_tree(&self, image: &ImageRecord, devices: &Devices) -> Result<Tree> {
        let indexes: Vec<_> = image.layers.iter().map(|layer| self.layer_index(layer)).collect::<Result<_>>()?;
        let items = image.layers.iter().zip(&indexes).map(|(layer, index)| {
            let device = devices.position(&layer.content);
            let title = layer.title.clone().unwrap_or_else(|| layer.digest.to_string());
            Ok(match index {
                Some(index) => artifact::Item::Archive { index, device, under: None },
                None => artifact::Item::File { title: Title::parse(&title)?, size: layer.stored_size, device },
            })
        });
        Ok(artifact::assemble(items.collect::<Result<Vec<_>>>()?, self.inner.limits.of_layers())?)
    }

    /// The index of a tar; `None` for a blob.
    fn layer_index(&self, layer: &LayerRecord) -> Result<Option<LayerIndex>> {
        let ContentKey::Layer(diff_id) = &layer.content else { return Ok(None) };
        let path = self.inner.layout.layer_index(diff_id);
        let bytes = std::fs::read(&path).map_err(StoreError::io("read", &path))?;
        // What is stored was right when it came in: that it is wrong now says nothing of the image.
        LayerIndex::from_bytes(&bytes).map(Some).map_err(|source| StoreError::Index { path, source })
    }
}

/// Bytes of everything that the image is made of, if all of it is there as the record says.
fn content_bytes(write: &Write<'_>, image: &ImageRecord) -> Result<u64> {
    let mut sizes = std::collections::HashMap::new();
    for key in image.content() {
        let content: Option<Content> = write.get(CONTENT, &key.to_string())?;
        sizes.insert(key.clone(), content.ok_or_else(|| StoreError::MissingContent(key.to_string()))?);
    }
    for layer in &image.layers {
        let actual = sizes.get(&layer.content).map_or(0, |content| content.size);
        if actual != layer.stored_size {
            return Err(StoreError::SizeMismatch { expected: layer.stored_size, actual });
        }
    }
    Ok(sizes.values().map(Content::bytes_on_disk).sum())
}

/// A full disk is no fault of the image.
fn of_write(error: WriteError, path: &Path) -> StoreError {
    if let WriteError::Output { source } = error {
        return StoreError::io("write", path)(source);
    }
    error.into()
}
