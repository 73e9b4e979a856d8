//! Where the files of a layout lie.

use std::sync::Arc;

use imagevol_mount::{DirError, SafeDir};

use crate::archive::Archive;
use crate::blob::Blob;
use crate::error::{LayoutError, Result};

/// A directory, or a tar.
#[derive(Debug)]
pub(crate) enum Place {
    Directory(SafeDir),
    Archive(Archive),
}

// === impl Place ===

impl Place {
    /// Opens a file by its path from the top.
    pub(crate) fn open(&self, path: &str) -> Result<Blob> {
        match self {
            Self::Directory(dir) => open_beneath(dir, path),
            Self::Archive(archive) => archive.open(path),
        }
    }
}

/// One checked name at a time: nothing outside of the directory is reached, whatever links lie in it.
fn open_beneath(dir: &SafeDir, path: &str) -> Result<Blob> {
    let failed = |source: DirError| {
        let what = path.to_owned();
        if source.is_not_found() { LayoutError::Absent { what } } else { LayoutError::Open { what, source } }
    };
    let (parents, name) = path.rsplit_once('/').map_or((None, path), |(parents, name)| (Some(parents), name));
    let mut current = dir.try_clone().map_err(failed)?;
    for parent in parents.into_iter().flat_map(|parents| parents.split('/')) {
        current = current.open_dir(parent).map_err(failed)?;
    }
    let file = current.open_file(name).map_err(failed)?;
    let size = file.metadata().map_err(|source| LayoutError::Read { what: path.to_owned(), source })?.len();
    Ok(Blob::of_file(Arc::new(file), 0, size))
}
