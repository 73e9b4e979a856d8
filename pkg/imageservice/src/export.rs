//! Export: images of the store as the tar of an OCI image layout, written as it is read. The same images make the same bytes.

mod manifest;

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write};

use imagevol_api::oci::{Digest, Reference};
use imagevol_api::tar::{self, Kind};
use imagevol_base::Digester;
use imagevol_cri::{ImageServiceError, Result};
use imagevol_store::{ContentKey, ImageRecord, Store, StoreError, Stored};
use serde::Serialize;

use crate::EmbeddedImageService;
use manifest::{Exported, exported};

/// The directory with all blobs.
const BLOBS: &str = "blobs";
/// The mark of a layout (image spec, image-layout.md).
const MARK: (&str, &[u8]) = ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
const INDEX: &str = "index.json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
/// The name of an image for podman, skopeo and umoci, and for docker and containerd.
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
/// Bytes that are read at once.
const CHUNK: usize = 256 * 1024;

/// Images ready to be written. Their content is kept until it goes.
#[derive(Debug)]
pub struct Export {
    store: Store,
    images: Vec<ExportedImage>,
    index: Vec<u8>,
    blobs: BTreeMap<Digest, Blob>,
}

/// An image of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedImage {
    /// As it was asked for.
    pub reference: String,
    /// The image in the store.
    pub image: Digest,
    /// The image in the archive: another one if its layers were compressed where it came from.
    pub exported: Digest,
}

#[derive(Debug)]
enum Blob {
    Bytes(Vec<u8>),
    Content(Stored),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index<'i> {
    schema_version: u8,
    media_type: &'static str,
    manifests: Vec<Entry<'i>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'i> {
    media_type: &'i str,
    digest: &'i Digest,
    size: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'static str, String>,
}

impl EmbeddedImageService {
    /// Finds the images and what they are made of.
    pub async fn export(&self, references: &[String]) -> Result<Export> {
        let mut images = Vec::new();
        for reference in references {
            let missing = || ImageServiceError::NotFound { message: format!("no image {reference:?} on this node") };
            images.push((reference.clone(), self.find_image(reference).await?.ok_or_else(missing)?));
        }
        self.blocking(move |store| Export::new(store, images)).await
    }
}

// === impl Export ===

impl Export {
    fn new(store: &Store, images: Vec<(String, ImageRecord)>) -> imagevol_store::Result<Self> {
        let (mut told, mut entries, mut blobs) = (Vec::new(), Vec::new(), BTreeMap::new());
        for (reference, image) in images {
            let config = config_of(store, &image)?;
            let exported = exported(&image, &store.read_blob(&image.manifest)?, config.as_ref().map(Blob::size));
            for layer in &image.layers {
                blobs.insert(layer.content.digest().clone(), Blob::Content(find(store, &layer.content)?));
            }
            match (&exported.empty_config, config) {
                (Some(bytes), _) => drop(blobs.insert(Digester::sha256(bytes), Blob::Bytes(bytes.clone()))),
                (None, Some(config)) => drop(blobs.insert(image.config.clone(), config)),
                (None, None) => {}
            }
            blobs.insert(exported.digest.clone(), Blob::Bytes(exported.bytes.clone()));
            told.push(ExportedImage {
                reference: reference.clone(),
                image: image.manifest,
                exported: exported.digest.clone(),
            });
            entries.push((reference, exported));
        }
        Ok(Self { store: store.clone(), images: told, index: index(&entries), blobs })
    }

    /// The images, in the order in which they were asked for.
    pub fn images(&self) -> &[ExportedImage] {
        &self.images
    }

    /// Writes the archive. Blocks. Content that is not what its digest says ends it with an error, before the archive is whole.
    pub fn write(self, out: &mut impl Write) -> io::Result<()> {
        write_file(out, MARK.0, MARK.1)?;
        write_file(out, INDEX, &self.index)?;
        out.write_all(&tar::header(&format!("{BLOBS}/"), 0, Kind::Directory))?;
        let mut last = None;
        for (digest, blob) in &self.blobs {
            let dir = format!("{BLOBS}/{}", digest.algorithm().as_str());
            if last.replace(digest.algorithm()) != Some(digest.algorithm()) {
                out.write_all(&tar::header(&format!("{dir}/"), 0, Kind::Directory))?;
            }
            let path = format!("{dir}/{}", digest.hex());
            match blob {
                Blob::Bytes(bytes) => write_file(out, &path, bytes)?,
                Blob::Content(stored) => self.write_content(out, &path, stored)?,
            }
        }
        out.write_all(&tar::END)?;
        out.flush()
    }

    fn write_content(&self, out: &mut impl Write, path: &str, stored: &Stored) -> io::Result<()> {
        let (key, size) = (stored.lease.key(), stored.content.size);
        let mut content = self.store.open_content(key).map_err(io::Error::other)?;
        out.write_all(&tar::header(path, size, Kind::File))?;
        let (mut digester, mut buffer) = (Digester::new(key.digest().algorithm()), vec![0; CHUNK]);
        loop {
            let count = content.read(&mut buffer)?;
            let piece = buffer.get(..count).unwrap_or_default();
            if piece.is_empty() {
                break;
            }
            digester.update(piece);
            out.write_all(piece)?;
        }
        let actual = digester.finish();
        if actual != *key.digest() {
            return Err(io::Error::other(StoreError::DigestMismatch { expected: key.digest().clone(), actual }));
        }
        pad(out, size)
    }
}

// === impl Blob ===

impl Blob {
    fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Content(stored) => stored.content.size,
        }
    }
}

fn write_file(out: &mut impl Write, path: &str, bytes: &[u8]) -> io::Result<()> {
    let size = bytes.len() as u64;
    out.write_all(&tar::header(path, size, Kind::File))?;
    out.write_all(bytes)?;
    pad(out, size)
}

fn pad(out: &mut impl Write, size: u64) -> io::Result<()> {
    out.write_all(&tar::padding(size).collect::<Vec<u8>>())
}

fn find(store: &Store, key: &ContentKey) -> imagevol_store::Result<Stored> {
    store.find(key)?.ok_or_else(|| StoreError::MissingContent(key.to_string()))
}

/// The config, if it is here: of an artifact only if it is one of its files too, or empty.
fn config_of(store: &Store, image: &ImageRecord) -> imagevol_store::Result<Option<Blob>> {
    if image.config == Digester::sha256(manifest::EMPTY) {
        return Ok(Some(Blob::Bytes(manifest::EMPTY.to_vec())));
    }
    Ok(store.find(&ContentKey::Blob(image.config.clone()))?.map(Blob::Content))
}

fn index(images: &[(String, Exported)]) -> Vec<u8> {
    let manifests = images.iter().map(|(reference, image)| Entry {
        media_type: &image.media_type,
        digest: &image.digest,
        size: image.bytes.len() as u64,
        annotations: names(reference),
    });
    let index = Index { schema_version: 2, media_type: INDEX_TYPE, manifests: manifests.collect() };
    // Strings and numbers always can be written.
    serde_json::to_vec(&index).unwrap_or_default()
}

/// A digest names the image of the store, which is another one in the archive: only a tag stays.
fn names(reference: &str) -> BTreeMap<&'static str, String> {
    if reference.parse::<Digest>().is_ok() {
        return BTreeMap::new();
    }
    match Reference::parse(reference) {
        Ok(name) if name.digest().is_none() => {
            let name = name.with_default_tag().to_string();
            NAMES.iter().map(|key| (*key, name.clone())).collect()
        }
        Ok(_) | Err(_) => BTreeMap::new(),
    }
}
