//! OCI layouts on disk (OCI image spec, image-layout.md), as skopeo and umoci read them.

use std::fs;
use std::path::Path;

use serde_json::json;

use imagevol_api::oci::Digest;

use super::{Image, Index, OCI_INDEX};

impl Image {
    /// Writes an OCI layout with this one image, named `tag`, into `dir`, which is made if absent.
    pub fn write_layout(&self, dir: &Path, tag: &str) {
        write_image(dir, self);
        finish(dir, self.descriptor(), tag);
    }
}

impl Index {
    /// Writes an OCI layout with this index, named `tag`, into `dir`, which is made if absent.
    pub fn write_layout(&self, dir: &Path, tag: &str) {
        write_index(dir, self);
        finish(dir, self.descriptor(), tag);
    }
}

fn write_index(dir: &Path, index: &Index) {
    index.images.iter().for_each(|image| write_image(dir, image));
    index.indexes.iter().for_each(|nested| write_index(dir, nested));
    write_blob(dir, &index.digest, &index.manifest);
}

fn write_image(dir: &Path, image: &Image) {
    image.blobs().for_each(|blob| write_blob(dir, &blob.digest, &blob.bytes));
    write_blob(dir, &image.digest, &image.manifest);
}

fn write_blob(dir: &Path, digest: &Digest, bytes: &[u8]) {
    let blobs = dir.join("blobs").join(digest.algorithm().as_str());
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(digest.hex()), bytes).unwrap();
}

fn finish(dir: &Path, mut descriptor: serde_json::Value, tag: &str) {
    let annotations = json!({ "org.opencontainers.image.ref.name": tag });
    descriptor.as_object_mut().unwrap().insert("annotations".to_owned(), annotations);
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [descriptor] });
    fs::write(dir.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
    fs::write(dir.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}
