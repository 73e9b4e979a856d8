//! A place for what comes in before anybody knows what it is: an archive that is imported.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::claims::Claim;
use crate::durable;
use crate::store::Store;
use crate::{Result, StoreError};

/// How the names of such directories begin.
const PREFIX: &str = "import-";

/// Tells imports of one run of the daemon apart; the next start deletes what a kill left of them.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// A directory beside the downloads, for one import. It goes with the value.
///
/// Killed at any time: a directory without the version of a download, which the next start deletes.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    /// While it is held, nobody takes the directory for one that a kill left.
    _claim: Claim,
}

// === impl Spool ===

impl Spool {
    /// The directory: empty at first, and of this import alone.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Err(error) = durable::remove_dir(&self.dir) {
            tracing::warn!(%error, dir = %self.dir.display(), "an import's directory stays until the next start");
        }
    }
}

// === impl Store ===

impl Store {
    /// Makes a directory for an import.
    pub fn spool(&self) -> Result<Spool> {
        let name = format!("{PREFIX}{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let claim = self.inner.claims.wait_for(&name);
        let dir = self.inner.layout.ingest(&name);
        std::fs::create_dir(&dir).map_err(StoreError::io("make directory", &dir))?;
        Ok(Spool { dir, _claim: claim })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;

    #[test]
    fn a_spool_goes_with_its_value_or_with_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Limits::default()).unwrap();
        let (spool, forgotten) = (store.spool().unwrap(), store.spool().unwrap());
        let (gone, left) = (spool.dir().to_owned(), forgotten.dir().to_owned());
        std::fs::write(gone.join("archive"), "bytes").unwrap();
        std::fs::write(left.join("archive"), "bytes").unwrap();
        store.expire().unwrap();
        assert!(gone.join("archive").exists(), "an import under way is not stale");
        drop(spool);
        assert!(!gone.exists() && left.exists());
        std::mem::forget(forgotten);
        drop(store);
        Store::open(dir.path(), Limits::default()).unwrap();
        assert!(!left.exists(), "what a kill left is deleted at start");
    }
}
