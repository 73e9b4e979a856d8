//! Making files durable: written, synced, renamed, and the directory synced.

use std::fs::{DirBuilder, File, TryLockError};
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::{Result, StoreError};

/// Mode of every directory of the store: content of one tenant is no business of another (0700).
const DIR_MODE: u32 = 0o700;

/// Device files of an image are read at the page size; a file that ends before is an I/O error (EROFS, short backing file).
pub(crate) const PADDING: u64 = 4096;

/// A directory that is this process's alone until this is dropped.
#[derive(Debug)]
pub(crate) struct DirLock(File);

// === impl DirLock ===

impl Drop for DirLock {
    fn drop(&mut self) {
        // To close it is not enough: a process that is being started may share it until it runs its program (flock(2)).
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "cannot unlock the state directory");
        }
    }
}

/// Makes a directory and its parents, for root only.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(path).map_err(StoreError::io("make directory", path))
}

/// Takes a directory for this process alone.
pub(crate) fn lock_dir(path: &Path) -> Result<DirLock> {
    let dir = File::open(path).map_err(StoreError::io("open", path))?;
    match dir.try_lock() {
        Ok(()) => Ok(DirLock(dir)),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked(path.to_owned())),
        Err(TryLockError::Error(source)) => Err(StoreError::io("lock", path)(source)),
    }
}

/// Bytes of a file of `size` with its padding.
pub(crate) fn padded(size: u64) -> u64 {
    size.next_multiple_of(PADDING)
}

/// Extends a file of `size` bytes with zeros to the padding and syncs it.
pub(crate) fn pad_and_sync(file: &File, size: u64, path: &Path) -> Result<()> {
    file.set_len(padded(size)).map_err(StoreError::io("pad", path))?;
    file.sync_all().map_err(StoreError::io("sync", path))
}

/// Renames a synced file to where it is visible, and syncs the directory.
pub(crate) fn publish(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).map_err(StoreError::io("rename", from))?;
    // Killed here: the file may or may not be visible after a power cut; its row is not written yet, so that start deletes it.
    sync_parent(to)
}

/// Writes a whole file of `length` bytes, zeros after `bytes`, so that it is there entirely or not at all.
pub(crate) fn write_file(path: &Path, bytes: &[u8], length: u64) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let mut file = NamedTempFile::new_in(parent).map_err(StoreError::io("create in", parent))?;
    // Killed from here to the rename: a `.tmp` file that no row names, deleted at start.
    file.write_all(bytes).map_err(StoreError::io("write", path))?;
    file.as_file().set_len(length).map_err(StoreError::io("pad", path))?;
    file.as_file().sync_all().map_err(StoreError::io("sync", path))?;
    persist(file, path)
}

/// Renames a synced temporary file to where it is visible, and syncs the directory.
pub(crate) fn persist(file: NamedTempFile, path: &Path) -> Result<()> {
    file.persist(path).map_err(|error| StoreError::io("rename to", path)(error.error))?;
    sync_parent(path)
}

/// Bytes of a file; `None` if there is none.
pub(crate) fn length(path: &Path) -> Result<Option<u64>> {
    match std::fs::symlink_metadata(path) {
        Ok(file) => Ok(Some(file.len())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("stat", path)(error)),
    }
}

/// The entries of a directory of the store, in order; none where there is no directory.
pub(crate) fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let listing = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing.map_err(StoreError::io("list", dir))?,
    };
    let paths = listing.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<_>>>();
    let mut paths = paths.map_err(StoreError::io("list", dir))?;
    // As bytes: paths compare component by component, which is slow for a hundred thousand of them.
    paths.sort_unstable_by(|one, other| one.as_os_str().cmp(other.as_os_str()));
    Ok(paths)
}

/// Deletes a file; one that is not there is deleted already.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    absent_is_fine(std::fs::remove_file(path)).map_err(StoreError::io("delete", path))
}

/// Deletes a directory of the store with what is in it, or a file in its place. No mount is ever made below the state directory.
pub(crate) fn remove_dir(path: &Path) -> Result<()> {
    let removed = match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => std::fs::remove_file(path),
        removed => removed,
    };
    absent_is_fine(removed).map_err(StoreError::io("delete", path))
}

fn absent_is_fine(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes a rename in the directory of `path` durable.
pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(StoreError::io("sync", parent))
}
