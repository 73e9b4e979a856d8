//! The downloads under way, each once however many pulls wait for it, and what they were promised of the disk.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use imagevol_api::oci::Digest;
use imagevol_cri::progress::Blob;

use crate::fetch::FetchKey;
use crate::right::Right;

/// Device files are stored in whole pages of this size (`imagevol-store`, padding).
const PAGE: u64 = 4096;

/// Blobs of which it is remembered how far they were unpacked; so many cannot all be too large for the disk.
const LEARNED_MAX: usize = 1024;

/// One download, for all that wait for it. It is known for as long as anybody has it: a pull that wants it, or the task that carries
/// it out, which may outlive its pulls. So whatever ends takes its share of the promises with it.
#[derive(Debug)]
pub(crate) struct Download {
    /// How far it is.
    pub(crate) progress: Blob,
    size: u64,
    /// What it takes at least, once stored.
    whole: u64,
    /// Bytes on disk that it was promised; 0 before that, and once they are taken.
    promised: AtomicU64,
    /// With whose right it runs, if it does.
    right: Mutex<Option<Right>>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Downloads {
    known: Mutex<Known>,
    /// What blobs have unpacked to at least, of which a download was stopped because there was no more room: the next try is told
    /// before it begins that it cannot end.
    unpacked: Mutex<HashMap<Digest, u64>>,
}

type Known = HashMap<FetchKey, Weak<Download>>;

/// Bytes that downloads will take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Share {
    /// When they have ended.
    pub(crate) whole: u64,
    /// Of these, what is not written yet.
    pub(crate) unwritten: u64,
}

// === impl Download ===

impl Download {
    fn new(key: &FetchKey, unpacked: u64) -> Self {
        let (size, promised) = (key.size(), AtomicU64::new(0));
        let least = size.max(unpacked);
        let whole = least.checked_next_multiple_of(PAGE).unwrap_or(least);
        Self { progress: Blob::new(key.digest(), size), size, whole, promised, right: Mutex::default() }
    }

    /// What it takes at least: more, where a layer is compressed.
    pub(crate) fn share(&self) -> Share {
        // In proportion: of what is unpacked, only the compressed bytes are counted.
        let written = u128::from(self.whole) * u128::from(self.progress.done()) / u128::from(self.size.max(1));
        let unwritten = self.whole.saturating_sub(u64::try_from(written).unwrap_or(u64::MAX));
        Share { whole: self.whole, unwritten }
    }

    fn is_promised(&self) -> bool {
        self.promised.load(Ordering::Relaxed) > 0
    }

    /// Its content is stored: it takes what it takes.
    pub(crate) fn is_stored(&self) {
        self.progress.finish();
        self.promised.store(0, Ordering::Relaxed);
    }

    /// Says with whose right it runs from now on.
    pub(crate) fn run_with(&self, right: &Right) {
        *self.right() = Some(right.clone());
    }

    pub(crate) fn runs_with(&self, right: &Right) -> bool {
        self.right().as_ref() == Some(right)
    }

    fn right(&self) -> MutexGuard<'_, Option<Right>> {
        self.right.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Downloads ===

impl Downloads {
    /// The download that others have, or a new one.
    pub(crate) fn get_or_make(&self, key: FetchKey) -> Arc<Download> {
        let mut known = self.lock();
        if let Some(download) = known.get(&key).and_then(Weak::upgrade) {
            return download;
        }
        // Those that nobody has are few: work under way is bounded.
        known.retain(|_, download| download.strong_count() > 0);
        let unpacked = lock(&self.unpacked).get(key.digest()).copied().unwrap_or_default();
        let download = Arc::new(Download::new(&key, unpacked));
        known.insert(key, Arc::downgrade(&download));
        download
    }

    /// Promises room to downloads, if `admit` finds it, in one step: it is told what those of them need that were promised nothing
    /// yet, and what all were promised so far.
    pub(crate) fn promise<E>(
        &self,
        wanted: &[Arc<Download>],
        admit: impl FnOnce(Share, Share) -> Result<(), E>,
    ) -> Result<(), E> {
        let known = self.lock();
        let own: Vec<&Arc<Download>> = wanted.iter().filter(|download| !download.is_promised()).collect();
        admit(own.iter().map(|download| download.share()).sum(), promised(&known))?;
        for download in own {
            download.promised.store(download.share().whole, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Remembers what a blob has unpacked to when it was stopped.
    pub(crate) fn learn(&self, blob: &Digest, unpacked: u64) {
        let mut known = lock(&self.unpacked);
        if known.len() >= LEARNED_MAX {
            known.clear();
        }
        known.insert(blob.clone(), unpacked);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        lock(&self.known)
    }
}

// === impl Share ===

impl std::iter::Sum for Share {
    fn sum<I: Iterator<Item = Self>>(shares: I) -> Self {
        shares.fold(Self::default(), |sum, share| Self {
            whole: sum.whole.saturating_add(share.whole),
            unwritten: sum.unwritten.saturating_add(share.unwritten),
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What was promised and is not yet seen as taken.
fn promised(known: &Known) -> Share {
    let under_way = known.values().filter_map(Weak::upgrade).filter(|download| download.is_promised());
    under_way.map(|download| download.share()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: u8, size: u64) -> FetchKey {
        FetchKey::of_blob("r.io", &imagevol_base::Digester::sha256(&[name]), size)
    }

    #[test]
    fn what_a_blob_unpacked_to_is_what_it_takes_at_least() {
        let downloads = Downloads::default();
        let digest = key(1, 5000).digest().clone();
        downloads.learn(&digest, 10_000);
        assert_eq!(downloads.get_or_make(key(1, 5000)).share(), Share { whole: 12_288, unwritten: 12_288 });
        downloads.learn(&digest, 100);
        assert_eq!(downloads.get_or_make(key(1, 5000)).share().whole, 8192, "never less than it is in the registry");
    }

    /// Whatever order promises are given and taken back in, none is left at the end and none is counted twice.
    #[test]
    fn promises_last_as_long_as_somebody_has_the_download() {
        let downloads = Downloads::default();
        let one = [downloads.get_or_make(key(1, 5000)), downloads.get_or_make(key(2, 4096))];
        let other = [downloads.get_or_make(key(2, 4096)), downloads.get_or_make(key(3, 1))];
        let all = || promised(&downloads.lock());
        let promise = |pull: &[Arc<Download>]| {
            downloads.promise(pull, |_, _| Ok::<_, ()>(())).unwrap();
            all()
        };
        assert_eq!(downloads.promise(&one, |need, _| Err(need.whole)), Err(8192 + 4096));
        assert_eq!(all(), Share::default(), "what is refused is not promised");
        assert_eq!(promise(&one), Share { whole: 8192 + 4096, unwritten: 8192 + 4096 });
        assert_eq!(promise(&other), Share { whole: 8192 + 2 * 4096, unwritten: 8192 + 2 * 4096 });
        other[0].progress.add(4000);
        assert_eq!(all(), Share { whole: 8192 + 2 * 4096, unwritten: 8192 + 96 + 4096 });
        // Another page than the first: as much of it as of its bytes.
        one[0].progress.add(2500);
        assert_eq!(all().unwritten, 4096 + 96 + 4096);
        drop(one);
        assert_eq!(all().whole, 2 * 4096, "what the other wants too stays promised");
        other[0].is_stored();
        assert_eq!(all().whole, 4096);
        drop(other);
        assert_eq!(all(), Share::default());
    }
}
