//! The store: opened once, shared by everything that pulls, mounts and lists. Every call blocks.

use std::path::Path;
use std::sync::Arc;

use imagevol_api::oci::Digest;

use crate::content::{Content, ContentKey, Leases};
use crate::durable;
use crate::ingest::{Form, Ingest, Stored};
use crate::layout::Layout;
use crate::rows::{CONTENT, DIFF_IDS, IMAGES, Rows};
use crate::{ImageRecord, Result, recovery};

/// What a single image may cost the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Uncompressed bytes of one layer.
    pub max_layer_bytes: u64,
    /// Bytes of an image's metadata file.
    pub max_index_bytes: u64,
    /// Files, directories and links of one image.
    pub max_entries: u64,
}

/// Content, images and references of one state directory.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) layout: Layout,
    pub(crate) rows: Rows,
    pub(crate) leases: Leases,
    pub(crate) limits: Limits,
}

// === impl Limits ===

impl Default for Limits {
    /// 1 TiB a layer; 1 GiB and 20 million entries a merged index.
    fn default() -> Self {
        Self { max_layer_bytes: 1 << 40, max_index_bytes: 1 << 30, max_entries: 20_000_000 }
    }
}

// === impl Store ===

impl Store {
    /// Opens or makes a store, and clears away what a kill left. One process at a time.
    pub fn open(state_dir: &Path, limits: Limits) -> Result<Self> {
        let layout = Layout::new(state_dir);
        durable::make_dir(state_dir)?;
        durable::make_dir(&layout.ingest_dir())?;
        for dir in layout.content_dirs() {
            durable::make_dir(&dir)?;
        }
        let rows = Rows::open(&layout.database())?;
        let store = Self { inner: Arc::new(Inner { layout, rows, leases: Leases::default(), limits }) };
        recovery::run(&store)?;
        Ok(store)
    }

    /// The directory that it lies in.
    pub fn state_dir(&self) -> &Path {
        self.inner.layout.root()
    }

    /// Content that is present, with a lease that keeps it.
    pub fn find(&self, key: &ContentKey) -> Result<Option<Stored>> {
        let lease = self.inner.leases.take(key);
        let content = self.rows().get(CONTENT, &key.to_string())?;
        Ok(content.map(|content| Stored { content, lease }))
    }

    /// The layer that a compressed blob was unpacked to, if it is present.
    pub fn find_layer(&self, blob: &Digest) -> Result<Option<Stored>> {
        let diff_id: Option<Digest> = self.rows().get(DIFF_IDS, &blob.to_string())?;
        diff_id.map_or(Ok(None), |diff_id| self.find(&ContentKey::Layer(diff_id)))
    }

    /// Begins a download, or goes on with one. At most one a digest at a time: the caller sees to that.
    pub fn begin(&self, digest: &Digest, size: u64, form: Form) -> Result<Ingest> {
        Ingest::begin(Arc::clone(&self.inner), digest, size, form)
    }

    /// Stores bytes at hand: a manifest, a config.
    pub fn put_blob(&self, digest: &Digest, bytes: &[u8]) -> Result<Stored> {
        if let Some(stored) = self.find(&ContentKey::Blob(digest.clone()))? {
            return Ok(stored);
        }
        let ingest = self.begin(digest, bytes.len() as u64, Form::Blob)?;
        let rest = usize::try_from(ingest.offset()).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
        ingest.run(rest)
    }

    /// The bytes of a blob, without its padding. For manifests and configs, which are small.
    pub fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let key = ContentKey::Blob(digest.clone());
        let content: Option<Content> = self.rows().get(CONTENT, &key.to_string())?;
        let content = content.ok_or_else(|| crate::StoreError::MissingContent(key.to_string()))?;
        let path = self.inner.layout.content(&key);
        let mut bytes = std::fs::read(&path).map_err(crate::StoreError::io("read", &path))?;
        bytes.truncate(usize::try_from(content.size).unwrap_or(usize::MAX));
        Ok(bytes)
    }

    /// All images.
    pub fn images(&self) -> Result<Vec<ImageRecord>> {
        Ok(self.rows().all(IMAGES)?.into_iter().map(|(_, image)| image).collect())
    }

    /// Bytes and files that content and images take on disk.
    pub fn usage(&self) -> Result<(u64, u64)> {
        let content = self.rows().all::<Content>(CONTENT)?;
        let images = self.images()?;
        let layers = content.iter().filter(|(_, content)| content.index.is_some()).count();
        let content_bytes: u64 = content.iter().map(|(_, content)| durable::padded(content.size)).sum();
        let image_bytes: u64 = images.iter().map(|image| image.index_bytes).sum();
        Ok((content_bytes + image_bytes, (content.len() + layers + images.len()) as u64))
    }

    pub(crate) fn rows(&self) -> &Rows {
        &self.inner.rows
    }
}

// === impl Inner ===

impl Inner {
    /// Writes the row of content whose file is visible.
    pub(crate) fn add_content(&self, key: &ContentKey, blob: &Digest, content: Content) -> Result<Stored> {
        let lease = self.leases.take(key);
        let write = self.rows.write()?;
        write.put(CONTENT, &key.to_string(), &content)?;
        if let ContentKey::Layer(diff_id) = key {
            write.put(DIFF_IDS, &blob.to_string(), diff_id)?;
        }
        write.commit()?;
        Ok(Stored { content, lease })
    }
}

/// Seconds since 1970, for rows that people read; no decision hangs on it but expiry.
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
