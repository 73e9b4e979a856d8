//! How far a pull has come: counted where bytes move, read by whoever shows it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use imagevol_api::oci::Digest;

/// The blobs of one pull. Clones are the same pull.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Mutex<Vec<Blob>>>);

/// Counter of a blob. Clones count into the same place: all pulls that wait for one download show it.
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
    /// Shows a blob, once however often it is asked to.
    pub fn show(&self, blob: &Blob) {
        let mut blobs = self.blobs();
        if !blobs.iter().any(|shown| Arc::ptr_eq(&shown.done, &blob.done)) {
            blobs.push(blob.clone());
        }
    }

    /// Where each blob stands now, in the order in which they were shown.
    pub fn snapshot(&self) -> Vec<BlobProgress> {
        let read = |blob: &Blob| BlobProgress { digest: blob.digest.clone(), size: blob.size, done: blob.done() };
        self.blobs().iter().map(read).collect()
    }

    /// Bytes that are here, and bytes of all blobs that are known.
    pub fn sums(&self) -> (u64, u64) {
        self.snapshot().iter().fold((0, 0), |(done, size), blob| (done + blob.done, size + blob.size))
    }

    fn blobs(&self) -> MutexGuard<'_, Vec<Blob>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Blob ===

impl Blob {
    /// A blob of `size` bytes, none of them here yet.
    pub fn new(digest: &Digest, size: u64) -> Self {
        Self { digest: digest.clone(), size, done: Arc::default() }
    }

    /// Sets how many bytes are here; a restarted download sets it back.
    pub fn set(&self, done: u64) {
        self.done.store(done, Ordering::Relaxed);
    }

    /// How many bytes are here.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed).min(self.size)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_pulls_show_one_download() {
        let blob = Blob::new(&format!("sha256:{}", "a".repeat(64)).parse().unwrap(), 10);
        let (one, other) = (Progress::default(), Progress::default());
        one.show(&blob);
        one.show(&blob.clone());
        other.show(&blob);
        blob.add(4);
        assert_eq!(one.snapshot(), other.snapshot());
        assert_eq!(one.snapshot().iter().map(|blob| blob.done).collect::<Vec<_>>(), [4]);
        blob.add(100);
        assert_eq!(other.snapshot()[0].done, 10, "never more than there is");
    }
}
