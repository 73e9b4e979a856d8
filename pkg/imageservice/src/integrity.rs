//! What was found corrupt: counted, and told to whoever wants to tell people.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use imagevol_cri::Result;
use imagevol_store::{ContentKey, Part, Quarantined, Report};
use tokio::sync::broadcast;

use crate::EmbeddedImageService;
use crate::error::of_store;

/// How many findings wait for somebody slow. Each is a piece of content that a disk has lost; more at once are a disk that is lost, and
/// the log has all of them.
const WAITING: usize = 256;

/// How much was found corrupt since the daemon began, by what it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CorruptContent {
    /// Blobs: manifests, configs, files of artifacts.
    pub blobs: u64,
    /// Layers, with their indexes.
    pub layers: u64,
    /// Metadata files of images.
    pub images: u64,
}

/// Findings and counters of one service. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Integrity(Arc<Shared>);

struct Shared {
    found: broadcast::Sender<Arc<Quarantined>>,
    blobs: AtomicU64,
    layers: AtomicU64,
    images: AtomicU64,
    scrubbed_bytes: AtomicU64,
    /// Seconds since 1970; 0 before the first.
    scrubbed_all_at: AtomicI64,
}

// === impl Integrity ===

impl Integrity {
    /// What is found corrupt from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Quarantined>> {
        self.0.found.subscribe()
    }

    /// How much was found corrupt.
    pub fn corrupt(&self) -> CorruptContent {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CorruptContent { blobs: count(&self.0.blobs), layers: count(&self.0.layers), images: count(&self.0.images) }
    }

    /// Bytes that were read by the scrub.
    pub fn scrubbed_bytes(&self) -> u64 {
        self.0.scrubbed_bytes.load(Ordering::Relaxed)
    }

    /// When the scrub had looked at everything last, seconds since 1970; `None` if it has not yet.
    pub fn scrubbed_all_at(&self) -> Option<i64> {
        Some(self.0.scrubbed_all_at.load(Ordering::Relaxed)).filter(|at| *at != 0)
    }

    pub(crate) fn tell(&self, quarantined: &Quarantined) {
        let counter = match &quarantined.part {
            Part::Content(ContentKey::Blob(_)) => &self.0.blobs,
            Part::Content(ContentKey::Layer(_)) => &self.0.layers,
            Part::Image(_) => &self.0.images,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        // An error says that nobody listens; the log has it.
        drop(self.0.found.send(Arc::new(quarantined.clone())));
    }

    pub(crate) fn scrubbed(&self, bytes: u64) {
        self.0.scrubbed_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn scrubbed_all(&self, at: i64) {
        self.0.scrubbed_all_at.store(at, Ordering::Relaxed);
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            found: broadcast::channel(WAITING).0,
            blobs: AtomicU64::default(),
            layers: AtomicU64::default(),
            images: AtomicU64::default(),
            scrubbed_bytes: AtomicU64::default(),
            scrubbed_all_at: AtomicI64::default(),
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Integrity").field("listeners", &self.found.receiver_count()).finish_non_exhaustive()
    }
}

// === impl EmbeddedImageService ===

impl EmbeddedImageService {
    /// What was found corrupt, whoever found it.
    pub fn integrity(&self) -> &Integrity {
        &self.staging.integrity
    }

    /// Checks the store; nothing is changed.
    pub async fn check(&self) -> Result<Report> {
        self.blocking(imagevol_store::Store::fsck).await
    }

    /// Checks the store and repairs what it can, beside pulls and mounts. Mounts of what was taken out of use go on.
    pub async fn repair(&self) -> Result<Report> {
        let staging = Arc::clone(&self.staging);
        self.blocking_mount(move || {
            staging.store.repair(&mut |quarantined| staging.taken(quarantined)).map_err(|error| of_store(&error))
        })
        .await
    }
}
