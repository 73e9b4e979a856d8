//! Making files durable: written, synced, renamed, and the directory synced.

use std::fs::{DirBuilder, File};
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::{Result, StoreError};

/// Mode of every directory of the store: content of one tenant is no business of another (0700).
const DIR_MODE: u32 = 0o700;

/// Device files of an image are read at the page size; a file that ends before is an I/O error (EROFS, short backing file).
pub(crate) const PADDING: u64 = 4096;

/// Makes a directory and its parents, for root only.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(path).map_err(StoreError::io("make directory", path))
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

/// Writes a whole file so that it is there entirely or not at all.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let mut file = NamedTempFile::new_in(parent).map_err(StoreError::io("create in", parent))?;
    // Killed from here to the rename: a `.tmp` file that no row names, deleted at start.
    file.write_all(bytes).map_err(StoreError::io("write", path))?;
    file.as_file().sync_all().map_err(StoreError::io("sync", path))?;
    file.persist(path).map_err(|error| StoreError::io("rename to", path)(error.error))?;
    sync_parent(path)
}

/// Deletes a file; one that is not there is deleted already.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    absent_is_fine(std::fs::remove_file(path)).map_err(StoreError::io("delete", path))
}

/// Deletes a directory of the store with what is in it. No mount is ever made below the state directory.
pub(crate) fn remove_dir(path: &Path) -> Result<()> {
    absent_is_fine(std::fs::remove_dir_all(path)).map_err(StoreError::io("delete", path))
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
