//! A place for what comes in before anybody knows what it is: an archive that is imported.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::claims::Claim;
use crate::durable;
use crate::room::Lookout;
use crate::store::{Inner, Store};
use crate::{Result, StoreError};

/// How the names of such directories begin.
const PREFIX: &str = "import-";

/// The file, where fsck and the quota find the bytes of what is unfinished.
const FILE: &str = "data";

/// Files of the store are for root only.
const FILE_MODE: u32 = 0o600;

/// Tells imports of one run of the daemon apart; the next start deletes what a kill left of them.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// A directory beside the downloads, for one import. It goes with the value.
///
/// Killed at any time: a directory without the version of a download, which the next start deletes.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    store: Arc<Inner>,
    /// While it is held, nobody takes the directory for one that a kill left.
    _claim: Claim,
}

/// The file of a [`Spool`], which takes bytes as long as there is room for what the node needs besides, and within the quota.
#[derive(Debug)]
pub struct SpoolFile {
    file: File,
    written: u64,
    lookout: Lookout<Arc<Inner>>,
}

// === impl Spool ===

impl Spool {
    /// Makes its file, which must not be there yet: for writing, and for reading what was written.
    pub fn file(&self) -> io::Result<(SpoolFile, File)> {
        let mut options = OpenOptions::new();
        options.create_new(true).read(true).write(true).mode(FILE_MODE);
        let file = options.open(self.dir.join(FILE))?;
        let reader = file.try_clone()?;
        Ok((SpoolFile { file, written: 0, lookout: Lookout::of(Arc::clone(&self.store)) }, reader))
    }

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

// === impl SpoolFile ===

impl io::Write for SpoolFile {
    /// A [`StoreError`] is what is inside the error if there is no room: its kind is that of a full disk then.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let coming = bytes.len() as u64;
        self.lookout.before(coming, self.written.saturating_add(coming)).map_err(as_io)?;
        let count = self.file.write(bytes)?;
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
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
        Ok(Spool { dir, store: Arc::clone(&self.inner), _claim: claim })
    }
}

fn as_io(error: StoreError) -> io::Error {
    let kind = if error.is_no_space() { io::ErrorKind::StorageFull } else { io::ErrorKind::Other };
    io::Error::new(kind, error)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::Limits;

    #[test]
    fn a_spool_goes_with_its_value_or_with_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Limits::default()).unwrap();
        let spool = store.spool().unwrap();
        let (gone, left) = (spool.dir().to_owned(), spool.dir().with_file_name("import-of-an-earlier-run"));
        spool.file().unwrap().0.write_all(b"bytes").unwrap();
        store.expire().unwrap();
        assert_eq!(std::fs::read(gone.join(FILE)).unwrap(), b"bytes", "an import under way is not stale");
        drop(spool);
        assert!(!gone.exists());
        drop(store);
        std::fs::create_dir(&left).unwrap();
        std::fs::write(left.join(FILE), "bytes").unwrap();
        Store::open(dir.path(), Limits::default()).unwrap();
        assert!(!left.exists(), "what a kill left is deleted at start");
    }
}
