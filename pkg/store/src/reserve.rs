//! A reserve on the disk for the moment when it is full: a removal writes rows before it frees anything, and the database may have to
//! grow for them.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::{Inner, Store};
use crate::{Result, StoreError, durable};

/// Bytes kept back: more than the pages that one transaction of removals writes.
const RESERVE_BYTES: u64 = 1 << 20;

/// Files of the store are for root only.
const FILE_MODE: u32 = 0o600;

/// Not zeros: a file system that compresses, or finds holes, would keep nothing back.
static FILLER: [u8; 64 * 1024] = [0x5a; 64 * 1024];

/// One removal at a time gives the reserve up.
#[derive(Debug, Default)]
pub(crate) struct Reserve(Mutex<()>);

// === impl Reserve ===

impl Reserve {
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Store ===

impl Store {
    /// Does something on a full disk that writes a little below the state directory and removes it again, in the room of the reserve.
    ///
    /// Killed meanwhile: no reserve, which the next start makes again if there is room.
    pub fn lending_reserve<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        let done = {
            let _only = self.inner.reserve.lock();
            durable::remove_file(&self.inner.layout.reserve())?;
            work()
        };
        self.inner.keep_reserve();
        Ok(done)
    }
}

// === impl Inner ===

impl Inner {
    /// Does something that ends with less on the disk. If the disk is too full even for that, it is done again with the reserve given
    /// up, which is made again as soon as there is room.
    pub(crate) fn freeing<T>(&self, remove: impl Fn() -> Result<T>) -> Result<T> {
        let removed = match remove() {
            Err(error) if error.is_no_space() => {
                let _only = self.reserve.lock();
                tracing::warn!(%error, "the disk is full: giving up the reserve to remove something");
                durable::remove_file(&self.layout.reserve())?;
                self.rows.growth.sparse_while(&remove)
            }
            removed => removed,
        };
        self.keep_reserve();
        removed
    }

    /// Makes the reserve if it is not whole. A disk that is too full for it is no error: whatever frees space tries again.
    ///
    /// Killed in the middle: a part of it, which the next start completes.
    pub(crate) fn keep_reserve(&self) {
        let path = self.layout.reserve();
        if durable::length(&path).is_ok_and(|length| length == Some(RESERVE_BYTES)) {
            return;
        }
        if let Err(error) = fill(&path) {
            tracing::debug!(error = &error as &dyn std::error::Error, "there is no room for the reserve");
            if let Err(error) = durable::remove_file(&path) {
                tracing::debug!(error = &error as &dyn std::error::Error, "a part of the reserve stays");
            }
        }
    }
}

fn fill(path: &Path) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(FILE_MODE);
    let write = |mut file: File| {
        for _ in 0..RESERVE_BYTES / FILLER.len() as u64 {
            file.write_all(&FILLER)?;
        }
        // Blocks are given out when data reach the disk.
        file.sync_all()
    };
    options.open(path).and_then(write).map_err(StoreError::io("write", path))
}
