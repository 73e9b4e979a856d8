//! How far a pull has come: counted where bytes move, read by whoever shows it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use imagevol_api::oci::Digest;

/// Counters of one pull. Clones count into the same place.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Mutex<Vec<Blob>>>);

/// Counter of one blob of a pull.
#[derive(Debug, Clone)]
pub struct Blob {
    digest: Digest,
    size: u64,
    done: Arc<AtomicU64>,
}

/// How far one blob has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobProgress {
    /// The blob as the registry names it.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// Bytes that are here.
    pub done: u64,
}

// === impl Progress ===

impl Progress {
    /// Adds a blob of `size` bytes, none of them here yet.
    pub fn blob(&self, digest: &Digest, size: u64) -> Blob {
        let blob = Blob { digest: digest.clone(), size, done: Arc::default() };
        self.blobs().push(blob.clone());
        blob
    }

    /// Adds a blob that another pull counts, so that both show it.
    pub fn share(&self, blob: &Blob) {
        self.blobs().push(blob.clone());
    }

    /// Where each blob stands now, in the order in which they were added.
    pub fn snapshot(&self) -> Vec<BlobProgress> {
        let read = |blob: &Blob| BlobProgress {
            digest: blob.digest.clone(),
            size: blob.size,
            done: blob.done.load(Ordering::Relaxed).min(blob.size),
        };
        self.blobs().iter().map(read).collect()
    }

    fn blobs(&self) -> std::sync::MutexGuard<'_, Vec<Blob>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Blob ===

impl Blob {
    /// Sets how many bytes are here; a restarted download sets it back.
    pub fn set(&self, done: u64) {
        self.done.store(done, Ordering::Relaxed);
    }

    /// Adds bytes that came in.
    pub fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Marks the blob as wholly here.
    pub fn finish(&self) {
        self.set(self.size);
    }
}
