//! One mount of each image in use, from which volumes are cloned: one superblock, one page cache.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use imagevol_api::oci::{Algorithm, Digest};
use imagevol_cri::{ImageServiceError, Result};
use imagevol_mount::{Backend, Interface, Source, StagedImage};
use imagevol_store::Store;

use crate::error::{of_mount, of_store};

/// The staged images. Every call blocks.
pub(crate) struct Staging {
    store: Store,
    mounts: Arc<dyn Interface>,
    backend: Backend,
    dir: PathBuf,
    /// Held while an image is staged or unstaged, so that it has one superblock at a time.
    staged: Mutex<HashMap<Digest, Arc<StagedImage>>>,
}

// === impl Staging ===

impl Staging {
    pub(crate) fn new(store: Store, mounts: Arc<dyn Interface>, backend: Backend, dir: PathBuf) -> Self {
        Self { store, mounts, backend, dir, staged: Mutex::default() }
    }

    pub(crate) fn mounts(&self) -> &dyn Interface {
        &*self.mounts
    }

    /// The staged image; staged now if it is not, or found where an earlier run of the daemon left it.
    ///
    /// Killed after the mount: it stays under the staging directory, and the next start uses or unmounts it.
    pub(crate) fn stage(&self, image: &Digest) -> Result<Arc<StagedImage>> {
        let mut staged = self.lock();
        if let Some(known) = staged.get(image) {
            return Ok(Arc::clone(known));
        }
        let at = self.place(image);
        let handle = match self.mounts.open_staged(&at).map_err(|error| of_mount(&error))? {
            Some(found) => found,
            None => {
                let files = self.store.open_image(image).map_err(|error| of_store(&error))?;
                let source = Source::new(self.backend, files.image, files.devices);
                self.mounts.stage(&source, &at).map_err(|error| of_mount(&error))?
            }
        };
        let handle = Arc::new(handle);
        staged.insert(image.clone(), Arc::clone(&handle));
        Ok(handle)
    }

    /// Unmounts the staged image if no row is bound to it. Clones of it live on.
    pub(crate) fn unstage_if_unused(&self, image: &Digest) -> Result<()> {
        let mut staged = self.lock();
        let rows = self.store.references().map_err(|error| of_store(&error))?;
        if rows.iter().any(|(_, row)| row.image.as_ref() == Some(image)) {
            return Ok(());
        }
        staged.remove(image);
        let at = self.place(image);
        self.mounts.unmount(&at).map_err(|error| of_mount(&error))?;
        remove_place(&at)
    }

    pub(crate) fn unstage_unused(&self) -> Result<()> {
        let entries = match std::fs::read_dir(&self.dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(|error| node("list", &self.dir, &error))?,
        };
        for entry in entries {
            let name = entry.map_err(|error| node("list", &self.dir, &error))?.file_name();
            // Whatever else lies there is not ours to touch.
            let Ok(image) = Digest::new(Algorithm::Sha256, &name.to_string_lossy()) else { continue };
            self.unstage_if_unused(&image)?;
        }
        Ok(())
    }

    fn place(&self, image: &Digest) -> PathBuf {
        self.dir.join(image.hex())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Arc<StagedImage>>> {
        self.staged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn remove_place(at: &std::path::Path) -> Result<()> {
    match std::fs::remove_dir(at) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(node("remove", at, &error)),
        _ => Ok(()),
    }
}

fn node(op: &str, path: &std::path::Path, error: &std::io::Error) -> ImageServiceError {
    ImageServiceError::Node { message: format!("cannot {op} {}: {error}", path.display()) }
}
