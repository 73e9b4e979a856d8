//! One mount of each image in use, from which volumes are cloned: one superblock, one page cache.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use imagevol_api::oci::{Algorithm, Digest};
use imagevol_base::Holder;
use imagevol_cri::{ImageServiceError, Result};
use imagevol_mount::{
    Attributes, Backend, DetachedMount, Exec, Interface, MountError, SafeDir, Source, StagedImage, SubPath,
};
use imagevol_store::{Quarantined, Reference, Store};

use crate::error::{of_mount, of_store};
use crate::integrity::Integrity;
use crate::service::SurvivorOf;
use imagevol_api::text::chain;

/// Mode of a staging directory: root's alone, for pods see the image through their own mounts.
const PLACE_MODE: u32 = 0o700;

/// How images may be named: a staging directory is called by the hex digits of a digest, whose number tells the algorithm.
const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

/// The staged images. Every call blocks.
pub(crate) struct Staging {
    pub(crate) store: Store,
    pub(crate) mounts: Arc<dyn Interface>,
    pub(crate) backend: Backend,
    pub(crate) dir: PathBuf,
    pub(crate) survivor_of: SurvivorOf,
    pub(crate) integrity: Integrity,
    /// Held while an image is staged or unstaged, so that it has one superblock at a time.
    pub(crate) staged: Mutex<HashMap<Digest, Arc<StagedImage>>>,
}

// === impl Staging ===

impl Staging {
    /// A mount of an image that a row is bound to, attached nowhere yet.
    pub(crate) fn mount(&self, image: &Digest, sub_path: Option<&SubPath>, with: Attributes) -> Result<DetachedMount> {
        self.verify(image)?;
        let staged = self.stage(image)?;
        let cloned = match self.mounts.clone_of(&staged, sub_path, with) {
            // Somebody unmounted what we hold a descriptor of; such a mount cannot be cloned any more.
            Err(error @ MountError::Kernel { .. }) => {
                tracing::warn!(%image, error = chain(&error), "staged image is lost, and is staged anew");
                self.forget(image, &staged);
                self.mounts.clone_of(&*self.stage(image)?, sub_path, with)
            }
            cloned => cloned,
        };
        cloned.map_err(|error| of_mount(&error))
    }

    /// Nothing is mounted from files that are not what they were when they were stored. What is found corrupt is taken out of use; if
    /// that makes it good again, the image is mounted.
    fn verify(&self, image: &Digest) -> Result<()> {
        // An image that is made again may lack a layer besides.
        for _ in 0..2 {
            let found = self.store.verify_for_mount(image).map_err(|error| of_store(&error))?;
            let Some(corrupt) = found else { return Ok(()) };
            if let Some(quarantined) = self.store.quarantine(&corrupt).map_err(|error| of_store(&error))? {
                self.taken(&quarantined);
            }
        }
        self.store.verify_for_mount(image).map_err(|error| of_store(&error))?.map_or(Ok(()), |corrupt| {
            let message = format!("image {image} is not mounted: {}", corrupt.problem);
            Err(ImageServiceError::Node { message })
        })
    }

    /// Unmounts what is staged from what was taken out of use, and tells of it. Pods go on with their clones.
    ///
    /// Killed before: the store remembers that it may be staged.
    pub(crate) fn taken(&self, quarantined: &Quarantined) {
        for stale in &quarantined.images {
            let mut staged = self.lock();
            if let Err(error) = self.unstage_stale(&stale.image, &mut staged) {
                // Nothing is cloned from it, for the store remembers, and the next mount tries again.
                tracing::warn!(image = %stale.image, %error, "the staged image of corrupt files is not unmounted");
            }
        }
        self.integrity.tell(quarantined);
    }

    fn unstage_stale(&self, image: &Digest, staged: &mut HashMap<Digest, Arc<StagedImage>>) -> Result<()> {
        staged.remove(image);
        self.unstage(image)?;
        self.store.unstaged(image).map_err(|error| of_store(&error))
    }

    /// The staged image; staged now if it is not, or found where an earlier run of the daemon left it.
    ///
    /// Killed after the mount: it stays under the staging directory, and the next start uses or unmounts it.
    fn stage(&self, image: &Digest) -> Result<Arc<StagedImage>> {
        let mut staged = self.lock();
        let stale = self.store.stale_mounts(image).map_err(|error| of_store(&error))?;
        if stale.staging {
            self.unstage_stale(image, &mut staged)?;
        }
        if let Some(known) = staged.get(image) {
            return Ok(Arc::clone(known));
        }
        // A row keeps what is staged, and its release unmounts it: without one it would stay for good.
        let holders = self.holders_of(image)?;
        if holders.is_empty() {
            let message = format!("image {image} is not mounted: nobody holds it");
            return Err(ImageServiceError::Node { message });
        }
        let good: Vec<Holder> = holders.into_iter().filter(|holder| !stale.holders.contains(holder)).collect();
        let handle = Arc::new(self.find_or_make(image, &good)?);
        staged.insert(image.clone(), Arc::clone(&handle));
        Ok(handle)
    }

    /// `holders`: those whose mounts are of the image as it is stored now.
    fn find_or_make(&self, image: &Digest, holders: &[Holder]) -> Result<StagedImage> {
        let at = self.place(image);
        if let Some(found) = self.mounts.open_staged(&at).map_err(|error| of_mount(&error))? {
            return Ok(found);
        }
        for path in holders.iter().filter_map(|holder| (self.survivor_of)(holder)) {
            match self.revive(&path, &at) {
                Ok(None) => {}
                Ok(Some(found)) => return Ok(found),
                // A second superblock costs memory and nothing else.
                Err(error) => {
                    tracing::warn!(%image, %error, path = %path.display(), "mounted volume is not used to stage its image");
                }
            }
        }
        let files = self.store.open_image(image).map_err(|error| of_store(&error))?;
        let source = Source::new(self.backend, files.image, files.devices);
        self.mounts.stage(&source, &at).map_err(|error| of_mount(&error))
    }

    /// Stages a clone of what is mounted at a pod's path, if that is a whole image: its superblock lives on.
    fn revive(&self, path: &Path, at: &Path) -> Result<Option<StagedImage>> {
        let Some(survivor) = self.mounts.open_staged(path).map_err(|error| of_mount(&error))? else { return Ok(None) };
        let with = Attributes { exec: Exec::Allow };
        let clone = self.mounts.clone_of(&survivor, None, with).map_err(|error| of_mount(&error))?;
        let name = at.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let place = SafeDir::open(&self.dir).and_then(|dir| dir.make_dir(name, PLACE_MODE));
        let place = place.map_err(|error| ImageServiceError::Node { message: chain(&error) })?;
        self.mounts.attach(clone, place.as_fd()).map_err(|error| of_mount(&error))?;
        tracing::info!(from = %path.display(), at = %at.display(), "staged an image from a volume that is mounted");
        self.mounts.open_staged(at).map_err(|error| of_mount(&error))
    }

    /// Drops a handle, unless somebody has replaced it since.
    fn forget(&self, image: &Digest, lost: &Arc<StagedImage>) {
        let mut staged = self.lock();
        if staged.get(image).is_some_and(|known| Arc::ptr_eq(known, lost)) {
            staged.remove(image);
        }
    }

    /// Unmounts the staged image if no row is bound to it. Clones of it live on.
    pub(crate) fn unstage_if_unused(&self, image: &Digest) -> Result<()> {
        let mut staged = self.lock();
        if !self.holders_of(image)?.is_empty() {
            return Ok(());
        }
        staged.remove(image);
        self.unstage(image)
    }

    /// Unmounts every staged image that no row is bound to: an earlier run's, or those of pods that went while nobody looked.
    pub(crate) fn unstage_unused(&self) -> Result<()> {
        let mut staged = self.lock();
        let bound: HashSet<Digest> = self.rows()?.into_iter().filter_map(|(_, row)| row.image).collect();
        let mut unstaged = Ok(());
        for image in self.places()?.into_iter().filter(|image| !bound.contains(image)) {
            staged.remove(&image);
            // One that cannot be unmounted keeps no other.
            unstaged = unstaged.and(self.unstage(&image));
        }
        unstaged
    }

    /// Killed before the directory is removed: an empty one, which the next stage uses or the next start removes.
    fn unstage(&self, image: &Digest) -> Result<()> {
        let at = self.place(image);
        self.mounts.unmount(&at).map_err(|error| of_mount(&error))?;
        match std::fs::remove_dir(&at) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(node("remove", &at, &error)),
            _ => Ok(()),
        }
    }

    fn places(&self) -> Result<Vec<Digest>> {
        let entries = match std::fs::read_dir(&self.dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|error| node("list", &self.dir, &error))?,
        };
        let mut places = Vec::new();
        for entry in entries {
            let name = entry.map_err(|error| node("list", &self.dir, &error))?.file_name();
            // Whatever else lies there is not ours to touch.
            places.extend(ALGORITHMS.iter().find_map(|algorithm| Digest::new(*algorithm, name.to_str()?).ok()));
        }
        Ok(places)
    }

    /// Those whose rows are bound to the image. A row that waits for a name keeps no mount.
    fn holders_of(&self, image: &Digest) -> Result<Vec<Holder>> {
        let bound = |(holder, row): (Holder, Reference)| (row.image.as_ref() == Some(image)).then_some(holder);
        Ok(self.rows()?.into_iter().filter_map(bound).collect())
    }

    fn rows(&self) -> Result<Vec<(Holder, Reference)>> {
        self.store.references().map_err(|error| of_store(&error))
    }

    fn place(&self, image: &Digest) -> PathBuf {
        self.dir.join(image.hex())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Arc<StagedImage>>> {
        self.staged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn node(op: &str, path: &Path, error: &std::io::Error) -> ImageServiceError {
    ImageServiceError::Node { message: format!("cannot {op} {}: {error}", path.display()) }
}
