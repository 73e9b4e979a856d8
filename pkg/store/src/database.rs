//! The database's file. Its blocks are allocated before they are used, so that a full disk refuses growth, and not the deletion
//! that would free it.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::backends::FileBackend;
use redb::{BackendError, Database, StorageBackend};

use crate::{Result, StoreError};

/// Memory for pages of the database. Rows are small and few; redb's own default of 1 GiB would be the daemon's largest piece.
const CACHE_BYTES: usize = 32 << 20;

/// Files of the store are for root only.
const FILE_MODE: u32 = 0o600;

/// Bytes of zeros written at once to allocate blocks.
const STRIDE: usize = 64 * 1024;

/// How the file grows. redb doubles it, and a transaction that removes rows uses a few pages of that.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    sparse: AtomicBool,
}

/// redb's file, with blocks under all of it. (A file system that copies on write may still refuse a write to them.)
#[derive(Debug)]
struct Allocated {
    inner: FileBackend,
    file: File,
    growth: Arc<Growth>,
}

/// Opens a database: every page is checked, so that what is damaged is an error here and not a panic later.
///
/// Killed at any later point: redb goes back to its last commit when it opens the file again.
pub(crate) fn open(path: &Path, growth: &Arc<Growth>) -> Result<Database> {
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(StoreError::io("open database", path))?;
    if file.metadata().map_err(StoreError::io("stat", path))?.len() == 0 {
        // redb would make a new one in it.
        return Err(StoreError::io("read database", path)(io::ErrorKind::UnexpectedEof.into()));
    }
    open_file(file, path, growth)
}

/// Makes a database where no file is.
pub(crate) fn make(path: &Path, growth: &Arc<Growth>) -> Result<Database> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(FILE_MODE);
    open_file(options.open(path).map_err(StoreError::io("make database", path))?, path, growth)
}

fn open_file(file: File, path: &Path, growth: &Arc<Growth>) -> Result<Database> {
    let refused = |error: redb::DatabaseError| {
        if matches!(error, redb::DatabaseError::DatabaseAlreadyOpen) {
            return StoreError::Locked(path.to_owned());
        }
        StoreError::Open { path: path.to_owned(), source: Box::new(error.into()) }
    };
    let twin = file.try_clone().map_err(StoreError::io("open database", path))?;
    let backend = Allocated { inner: FileBackend::new(file).map_err(refused)?, file: twin, growth: Arc::clone(growth) };
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder.create_with_backend(backend).map_err(refused)
}

// === impl Growth ===

impl Growth {
    /// While `work` runs the file may grow without blocks: the few that it uses are taken from the reserve. What it leaves without is
    /// allocated by the first write there, or refused as any write to a full disk.
    pub(crate) fn sparse_while<T>(&self, work: impl FnOnce() -> T) -> T {
        self.sparse.store(true, Ordering::SeqCst);
        let done = work();
        self.sparse.store(false, Ordering::SeqCst);
        done
    }

    fn is_sparse(&self) -> bool {
        self.sparse.load(Ordering::SeqCst)
    }
}

// === impl Allocated ===

impl Allocated {
    /// On failure the file is as long as before.
    fn allocate(&self, from: u64, to: u64) -> io::Result<()> {
        let zeros = vec![0; STRIDE];
        let mut at = from;
        while at < to {
            let count = usize::try_from(to - at).unwrap_or(STRIDE).min(STRIDE);
            let written = self.file.write_all_at(zeros.get(..count).unwrap_or_default(), at);
            if let Err(error) = written {
                self.file.set_len(from)?;
                return Err(error);
            }
            at += count as u64;
        }
        Ok(())
    }
}

impl StorageBackend for Allocated {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let now = self.inner.len()?;
        if len > now && !self.growth.is_sparse() { self.allocate(now, len) } else { self.inner.set_len(len) }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
