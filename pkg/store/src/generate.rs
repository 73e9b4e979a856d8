//! Stores of many images, made quickly: for measurements only.

use std::fs::File;

use imagevol_base::Digester;

use crate::content::{Content, ContentKey};
use crate::durable::padded;
use crate::references::ImageName;
use crate::rows::{CONTENT, Write};
use crate::store::{Store, now};
use crate::{ImageRecord, Result, StoreError};

/// Bytes of the index of each layer, and of each image's EROFS file.
const INDEX_BYTES: u64 = 512;

// === impl Store ===

impl Store {
    /// Adds images in one transaction: real rows, names and links, and files of the right length that hold nothing. A layer's file is
    /// made with the first image that has it.
    #[doc(hidden)]
    pub fn generate(&self, images: Vec<(ImageRecord, Vec<ImageName>)>) -> Result<()> {
        let write = self.rows().write()?;
        for (mut image, names) in images {
            let mut size = 0;
            for key in image.content() {
                size += self.generate_content(&write, &image, &key)?.bytes_on_disk();
            }
            make_sparse(&self.inner.layout.image(&image.manifest), INDEX_BYTES)?;
            (image.size, image.index_bytes, image.pulled_at) = (size + INDEX_BYTES, INDEX_BYTES, now());
            image.index_digest = Some(Digester::sha256(b""));
            write.put_image(&image)?;
            write.see(&self.inner.clock, &image.manifest)?;
            for name in &names {
                write.put_name(name.as_str(), &image.manifest)?;
            }
        }
        write.commit()
    }

    fn generate_content(&self, write: &Write<'_>, image: &ImageRecord, key: &ContentKey) -> Result<Content> {
        if let Some(known) = write.get(CONTENT, &key.to_string())? {
            return Ok(known);
        }
        let layer = image.layers.iter().find(|layer| layer.content == *key);
        let mut content = Content::of(layer.map_or(INDEX_BYTES, |layer| layer.stored_size));
        if let (ContentKey::Layer(diff_id), Some(layer)) = (key, layer) {
            (content.index, content.index_bytes) = (Some(Digester::sha256(b"")), INDEX_BYTES);
            make_sparse(&self.inner.layout.layer_index(diff_id), INDEX_BYTES)?;
            write.put_diff_id(&layer.digest, diff_id)?;
        }
        (content.stored_at, content.stored) = (now(), self.now());
        make_sparse(&self.inner.layout.content(key), padded(content.size))?;
        write.put(CONTENT, &key.to_string(), &content)?;
        Ok(content)
    }
}

fn make_sparse(path: &std::path::Path, length: u64) -> Result<()> {
    File::create(path).and_then(|file| file.set_len(length)).map_err(StoreError::io("make", path))
}
