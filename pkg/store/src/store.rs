//! The store: opened once, shared by everything that pulls, mounts and lists. Every call blocks.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use imagevol_api::oci::Digest;
use imagevol_base::Digester;
use imagevol_base::collection::NodeTime;

use crate::claims::Claims;
use crate::clock::{Clock, KernelClock, NodeClock};
use crate::content::{Content, ContentKey, Lease, Leases};
use crate::durable::DirLock;
use crate::head::Head;
use crate::ingest::{Form, Ingest, Stored};
use crate::layout::Layout;
use crate::reserve::Reserve;
use crate::rows::{CONTENT, DIFF_IDS, HEADS, IMAGES, Missing, Rows};
use crate::verify::Verified;
use crate::{ImageRecord, Result, StoreError, durable, links, recovery};

/// What a single image may cost the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Uncompressed bytes of one layer.
    pub max_layer_bytes: u64,
    /// Bytes of an image's metadata file.
    pub max_index_bytes: u64,
    /// Files, directories and links of one image.
    pub max_entries: u64,
    /// Bytes that all images may take together; 0 is no limit.
    pub max_store_bytes: u64,
    /// Bytes of the file system that downloads leave free.
    pub min_free_bytes: u64,
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
    pub(crate) claims: Arc<Claims>,
    pub(crate) limits: Limits,
    pub(crate) clock: Clock,
    pub(crate) verified: Verified,
    /// Held while a metadata file of an image is open for reading, so that this is not taken for a mount.
    reading: Mutex<()>,
    pub(crate) reserve: Reserve,
    /// Keeps other processes away from the state directory. Last, so that it is given back after the database is closed.
    _lock: DirLock,
}

// === impl Limits ===

impl Default for Limits {
    /// 1 TiB a layer; 1 GiB and 20 million entries a merged index; the disk to its last byte.
    fn default() -> Self {
        Self {
            max_layer_bytes: 1 << 40,
            max_index_bytes: 1 << 30,
            max_entries: 20_000_000,
            max_store_bytes: 0,
            min_free_bytes: 0,
        }
    }
}

impl Limits {
    /// What reading and merging layers may cost.
    pub(crate) fn of_layers(self) -> imagevol_layer::Limits {
        imagevol_layer::Limits {
            max_entries: self.max_entries,
            max_index_bytes: self.max_index_bytes,
            ..Default::default()
        }
    }
}

// === impl Store ===

impl Store {
    /// Opens or makes a store, and clears away what a kill left. One process at a time.
    pub fn open(state_dir: &Path, limits: Limits) -> Result<Self> {
        Self::open_with_clock(state_dir, limits, Arc::new(KernelClock))
    }

    /// The same with another clock than the kernel's.
    pub fn open_with_clock(state_dir: &Path, limits: Limits, clock: Arc<dyn NodeClock>) -> Result<Self> {
        let layout = Layout::new(state_dir);
        durable::make_dir(state_dir)?;
        let lock = durable::lock_dir(state_dir)?;
        let rows = Rows::open(&layout.database(), Missing::Make)?;
        durable::make_dir(&layout.ingest_dir())?;
        for dir in layout.content_dirs() {
            durable::make_dir(&dir)?;
            durable::sync_parent(&dir)?;
        }
        let store = Self::new(layout, rows, limits, (lock, clock));
        store.inner.freeing(|| {
            store.rows().upgrade()?;
            store.start_clock()?;
            recovery::run(&store)
        })?;
        Ok(store)
    }

    /// Opens a store for [`Store::fsck`] and [`Store::repair`] while no daemon runs: nothing is made, cleared or deleted. It is an error if
    /// there is no store, or if another process has it open.
    pub fn open_for_fsck(state_dir: &Path) -> Result<Self> {
        let layout = Layout::new(state_dir);
        let lock = durable::lock_dir(state_dir)?;
        let rows = Rows::open(&layout.database(), Missing::Refuse)?;
        let store = Self::new(layout, rows, Limits::default(), (lock, Arc::new(KernelClock)));
        store.start_clock()?;
        Ok(store)
    }

    fn new(layout: Layout, rows: Rows, limits: Limits, (lock, clock): (DirLock, Arc<dyn NodeClock>)) -> Self {
        let (leases, claims, clock) = (Leases::default(), Arc::default(), Clock::new(clock));
        let (verified, reading) = (Verified::default(), Mutex::default());
        let reserve = Reserve::default();
        let inner = Inner { layout, rows, leases, claims, limits, clock, verified, reading, reserve, _lock: lock };
        Self { inner: Arc::new(inner) }
    }

    /// The node's own time, in which ages are measured: see [`NodeTime`].
    pub fn now(&self) -> NodeTime {
        self.inner.clock.now()
    }

    /// The directory that it lies in.
    pub fn state_dir(&self) -> &Path {
        self.inner.layout.root()
    }

    /// Content that is present, in its row and on disk, with a lease that keeps it.
    pub fn find(&self, key: &ContentKey) -> Result<Option<Stored>> {
        // Before the row is read: what is seen after this stays.
        let lease = self.inner.leases.take(key);
        let content = self.inner.whole(key)?;
        Ok(content.map(|content| Stored { content, lease }))
    }

    /// The layer that a compressed blob was unpacked to, if it is present.
    pub fn find_layer(&self, blob: &Digest) -> Result<Option<Stored>> {
        let diff_id: Option<Digest> = self.rows().get(DIFF_IDS, &blob.to_string())?;
        diff_id.map_or(Ok(None), |diff_id| self.find(&ContentKey::Layer(diff_id)))
    }

    /// Begins a download, or goes on with one. Waits while the same download is under way: whoever holds its [`Ingest`] must not
    /// ask for another.
    pub fn begin(&self, digest: &Digest, size: u64, form: Form) -> Result<Ingest> {
        Ingest::begin(Arc::clone(&self.inner), digest, size, form)
    }

    /// Stores bytes at hand: a manifest, a config.
    pub fn put_blob(&self, digest: &Digest, bytes: &[u8]) -> Result<Stored> {
        let actual = Digester::of(digest.algorithm(), bytes);
        if actual != *digest {
            return Err(StoreError::DigestMismatch { expected: digest.clone(), actual });
        }
        let key = ContentKey::Blob(digest.clone());
        // Before the file is written: nobody deletes a file whose row is about to be written.
        let lease = self.inner.leases.take(&key);
        if let Some(content) = self.inner.whole(&key)? {
            return Ok(Stored { content, lease });
        }
        let content = self.inner.write_blob(&key, bytes)?;
        self.inner.add_content(lease, digest, content)
    }

    /// The bytes of a blob, without its padding, held against their digest. For manifests and configs, which are small.
    pub fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let key = ContentKey::Blob(digest.clone());
        let content: Option<Content> = self.rows().get(CONTENT, &key.to_string())?;
        let content = content.ok_or_else(|| StoreError::MissingContent(key.to_string()))?;
        let path = self.inner.layout.content(&key);
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(content.size).read_to_end(&mut bytes));
        read.map_err(StoreError::io("read", &path))?;
        let actual = Digester::of(digest.algorithm(), &bytes);
        if actual == *digest { Ok(bytes) } else { Err(StoreError::Damaged { path, actual }) }
    }

    /// All images.
    pub fn images(&self) -> Result<Vec<ImageRecord>> {
        Ok(self.rows().all(IMAGES)?.into_iter().map(|(_, image)| image).collect())
    }

    /// All images with the names that lead to them, as they are at one moment.
    pub fn images_with_names(&self) -> Result<Vec<(ImageRecord, Vec<String>)>> {
        self.rows().read(|snapshot| {
            let mut names: BTreeMap<Digest, Vec<String>> = links::names_by_image(snapshot)?;
            let with_names = |(_, image): (String, ImageRecord)| {
                let names = names.remove(&image.manifest).unwrap_or_default();
                (image, names)
            };
            Ok(snapshot.all(IMAGES)?.into_iter().map(with_names).collect())
        })
    }

    /// Bytes and files that content and images take on disk. Downloads under way and the database are not in it.
    pub fn usage(&self) -> Result<(u64, u64)> {
        let (mut bytes, mut files) = (0, 0);
        for (_, content) in self.rows().all::<Content>(CONTENT)? {
            bytes += content.bytes_on_disk();
            files += if content.index.is_some() { 2 } else { 1 };
        }
        for (_, image) in self.rows().all::<Head>(HEADS)? {
            bytes += image.index_bytes;
            files += 1;
        }
        Ok((bytes, files))
    }

    pub(crate) fn rows(&self) -> &Rows {
        &self.inner.rows
    }
}

// === impl Inner ===

impl Inner {
    /// Content that has a row and files as long as that says.
    pub(crate) fn whole(&self, key: &ContentKey) -> Result<Option<Content>> {
        let content: Option<Content> = self.rows.get(CONTENT, &key.to_string())?;
        let Some(content) = content else { return Ok(None) };
        Ok(self.has_files(key, &content)?.then_some(content))
    }

    pub(crate) fn has_files(&self, key: &ContentKey, content: &Content) -> Result<bool> {
        for (path, length) in self.layout.files_of(key, content) {
            if durable::length(&path)? != Some(length) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Held by whoever reads metadata files of images, and by whoever wants to know whether they are mounted. Nobody takes another
    /// lock while holding it.
    pub(crate) fn reading(&self) -> MutexGuard<'_, ()> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Killed after this: a file that no row names, deleted at start.
    fn write_blob(&self, key: &ContentKey, bytes: &[u8]) -> Result<Content> {
        let size = bytes.len() as u64;
        durable::write_file(&self.layout.content(key), bytes, durable::padded(size))?;
        Ok(Content::of(size))
    }

    /// Writes the row of content whose file is visible. `lease` was taken before that file was looked at.
    pub(crate) fn add_content(&self, lease: Lease, blob: &Digest, content: Content) -> Result<Stored> {
        let content = Content { stored_at: now(), stored: self.clock.now(), ..content };
        let write = self.rows.write()?;
        // Whoever found it corrupt may have taken the files away: he had this transaction before.
        if !self.has_files(lease.key(), &content)? {
            return Err(StoreError::MissingContent(lease.key().to_string()));
        }
        write.put(CONTENT, &lease.key().to_string(), &content)?;
        if let ContentKey::Layer(diff_id) = lease.key() {
            write.put_diff_id(blob, diff_id)?;
        }
        write.commit()?;
        Ok(Stored { content, lease })
    }
}

/// Seconds since 1970, for rows that people read; no decision hangs on it.
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
