//! The kubelet-shaped directories of pods, walked by descriptor: no symlink that somebody planted is followed.
//!
//! ```text
//! <root-dir>/pods/<uid>/volumes/kubernetes.io~image/<volume>              the whole image
//! <root-dir>/pods/<uid>/volume-subpaths/<volume>/<container>/<index>      a sub path, directory or file
//! <root-dir>/pods/<uid>/volumes/kubernetes.io~csi/<volume>/mount          the whole image, for a kubelet
//! ```

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use imagevol_api::names::{ContainerName, PodUid, VolumeName};
use imagevol_base::PODS;
use imagevol_mount::{DetachedMount, DirError, FileKind, Interface, MountKind, MountPoint, SafeDir};

use crate::{Door, Key, Result, VolumeError};

mod place;

pub use place::Place;

/// Mode of a pod's directories (kubelet_getters.go, `MkdirAll(..., 0750)`).
const DIR_MODE: u32 = 0o750;
/// File system of our mounts.
const OUR_FS: &str = "erofs";

/// The directories of pods on this node, and what is mounted there. Every call blocks.
#[derive(Clone)]
pub struct Host {
    root_dir: PathBuf,
    mounts: Arc<dyn Interface>,
    /// Held while directories are made or removed: an empty parent is not removed under somebody who makes a child.
    directories: Arc<Mutex<()>>,
}

/// The root directory, open, and its path as the mount table has it: the configured one may lead through symlinks.
struct Root {
    dir: SafeDir,
    path: PathBuf,
}

// === impl Host ===

impl Host {
    /// The pods below `<root_dir>/pods`.
    pub fn new(root_dir: PathBuf, mounts: Arc<dyn Interface>) -> Self {
        Self { root_dir, mounts, directories: Arc::default() }
    }

    /// Where a volume is mounted, for people.
    pub fn path(&self, key: &Key) -> PathBuf {
        Place::of(key).below(&self.root_dir)
    }

    /// Where a sub path is mounted, for people.
    pub fn sub_path_path(&self, pod: &PodUid, volume: &VolumeName, container: &ContainerName, index: u32) -> PathBuf {
        Place::sub_path(pod, volume, container, index).below(&self.root_dir)
    }

    /// Our mount at a place, if there is one. Anything else that is mounted there is an error.
    pub fn mounted(&self, place: &Place) -> Result<Option<MountPoint>> {
        let Some(root) = self.root()? else { return Ok(None) };
        let at = place.below(&root.path);
        let mount = self.mounts.mounted_at(&at)?;
        mount.map(ours).transpose()
    }

    /// Those of `places` that have no mount of ours, by one look at the mount table; one that is covered by others' mounts is there.
    ///
    /// A kubelet's place whose directory has gone as well is left out: an unmount leaves it, so whoever removed it takes the pod apart.
    pub fn lost(&self, places: BTreeSet<Place>) -> Result<BTreeSet<Place>> {
        let Some(root) = self.root()? else {
            return Ok(places.into_iter().filter(|place| !place.below_others).collect());
        };
        let mounts = self.mounts.list(&root.path.join(PODS))?.into_iter();
        let ours: HashSet<PathBuf> = mounts.filter(|mount| mount.fs_type == OUR_FS).map(|mount| mount.at).collect();
        let mut lost = BTreeSet::new();
        for place in places.into_iter().filter(|place| !ours.contains(&place.below(&root.path))) {
            if !place.below_others || exists(&root.dir, &place)? {
                lost.insert(place);
            }
        }
        Ok(lost)
    }

    /// Whether the mount at a place is of the same file or directory as `mount`; both are known to be of one image.
    pub fn is_same(&self, place: &Place, mount: &DetachedMount) -> Result<bool> {
        let Some(root) = self.root()? else { return Ok(false) };
        let Some(dir) = open_parent(&root.dir, place)? else { return Ok(false) };
        let there = dir.open_path(&place.last)?;
        let (there, new) = (inode(there.as_fd(), &dir)?, inode(mount.as_fd(), &dir)?);
        Ok(there == new)
    }

    /// Attaches a mount, after making the directory or the file that it covers.
    ///
    /// Killed before the attach: an empty directory or file, which reconstruction finds and removes or uses; below a kubelet's
    /// directory, which the kubelet has taken away by an unpublish.
    pub fn attach(&self, mount: DetachedMount, place: &Place) -> Result<()> {
        let _guard = self.lock();
        let mut dir = SafeDir::open(&self.root_dir)?;
        for name in &place.parents {
            dir = if place.below_others { dir.open_dir(name)? } else { dir.make_dir(name, DIR_MODE)? };
        }
        match mount.kind() {
            MountKind::Directory => {
                let target = dir.make_dir(&place.last, DIR_MODE)?;
                if place.below_others && !target.entries()?.is_empty() {
                    return Err(VolumeError::NotEmpty { at: target.path().to_owned() });
                }
                self.mounts.attach(mount, target.as_fd())?;
            }
            MountKind::File => self.mounts.attach(mount, dir.make_file(&place.last)?.as_fd())?,
        }
        Ok(())
    }

    /// Unmounts a volume with its sub paths and removes its directories; parents of ours go when they are empty.
    ///
    /// If anything there is mounted by others, nothing is touched. Killed anywhere in between: what is left is found by
    /// the next start, or removed by the kubelet's next unpublish.
    pub fn remove_volume(&self, key: &Key) -> Result<()> {
        let _guard = self.lock();
        let Some(root) = self.root()? else { return Ok(()) };
        match key.door {
            Door::Pod => self.remove_of_pod(&root, &key.pod, &key.volume),
            Door::Csi { .. } => {
                let place = Place::of(key);
                self.unmount_all(self.our_mounts(&place.below(&root.path))?)?;
                remove_target(&root.dir, &place)
            }
        }
    }

    fn remove_of_pod(&self, root: &Root, pod: &PodUid, volume: &VolumeName) -> Result<()> {
        let places = [Place::sub_paths(pod, volume), Place::volume(pod, volume)];
        let mounts =
            places.iter().map(|place| self.our_mounts(&place.below(&root.path))).collect::<Result<Vec<_>>>()?;
        for (place, mounts) in places.iter().zip(mounts) {
            self.unmount_all(mounts)?;
            remove_tree(&root.dir, place)?;
        }
        Place::parents_of_volumes(pod).iter().try_for_each(|place| remove_if_empty(&root.dir, place))
    }

    /// Unmounts the sub paths of a volume for which `wanted` is false, and removes what they covered: another spec wanted them.
    pub fn remove_sub_paths(&self, pod: &PodUid, volume: &VolumeName, wanted: impl Fn(&Place) -> bool) -> Result<()> {
        let _guard = self.lock();
        let Some(root) = self.root()? else { return Ok(()) };
        for container in names_at(&root.dir, &Place::sub_paths(pod, volume))? {
            let of_container = Place::sub_paths(pod, volume).child(&container);
            for index in names_at(&root.dir, &of_container)? {
                let place = of_container.child(&index);
                if !wanted(&place) {
                    self.unmount_all(self.our_mounts(&place.below(&root.path))?)?;
                    remove_target(&root.dir, &place)?;
                }
            }
            remove_if_empty(&root.dir, &of_container)?;
        }
        Ok(())
    }

    /// Every volume of pods of ours that has a directory. What cannot be looked into is left out, and told in the log.
    ///
    /// Sub paths alone make no volume: a kubelet with the same root keeps those of all its volumes in the same place, and unmounting
    /// one would take it from under a running container. Ours come after their volume's directory, and go before it.
    pub fn find_volumes(&self) -> Result<BTreeSet<Key>> {
        let mut found = BTreeSet::new();
        let Some(root) = self.root()? else { return Ok(found) };
        let pods = match root.dir.open_dir(PODS) {
            Err(error) if error.is_not_found() => return Ok(found),
            pods => pods?,
        };
        for entry in pods.entries()?.iter().filter(|entry| entry.kind == FileKind::Directory) {
            // Other names are not of pods.
            let Some(pod) = entry.name.to_str().and_then(|name| name.parse::<PodUid>().ok()) else { continue };
            found.extend(volumes_of(&root.dir, &pod));
        }
        Ok(found)
    }

    /// The volumes at whose place nothing but our own is mounted.
    pub fn mounted_volumes(&self) -> Result<BTreeSet<Key>> {
        let Some(root) = self.root()? else { return Ok(BTreeSet::new()) };
        let (mut ours, mut foreign) = (BTreeSet::new(), BTreeSet::new());
        for mount in self.mounts.list(&root.path.join(PODS))? {
            let Some(found) = place::volume_at(&root.path, &mount.at) else { continue };
            if mount.fs_type == OUR_FS {
                ours.insert(found)
            } else {
                foreign.insert(found)
            };
        }
        Ok(ours.difference(&foreign).cloned().collect())
    }

    /// Every mount at a place of a volume or of a sub path. At a kubelet's CSI volumes only mounts of our kind: others are other drivers'.
    /// Sub paths are those of volumes that [`Self::find_volumes`] finds.
    pub fn mounts(&self) -> Result<Vec<(Key, MountPoint)>> {
        let Some(root) = self.root()? else { return Ok(Vec::new()) };
        let of_pods = self.find_volumes()?;
        let mounts = self.mounts.list(&root.path.join(PODS))?.into_iter();
        let owned = mounts.filter_map(|mount| Some((place::owner_at(&root.path, &mount.at)?, mount)));
        let is_ours = |(key, mount): &(Key, MountPoint)| match key.door {
            Door::Pod => of_pods.contains(key),
            Door::Csi { .. } => mount.fs_type == OUR_FS,
        };
        Ok(owned.filter(is_ours).collect())
    }

    /// The mounts at a path and beneath, deepest first: a parent with a mount inside would only be detached with it.
    fn our_mounts(&self, at: &Path) -> Result<Vec<MountPoint>> {
        let mut mounts = self.mounts.list(at)?.into_iter().map(ours).collect::<Result<Vec<_>>>()?;
        mounts.sort_by_key(|mount| Reverse(mount.at.components().count()));
        Ok(mounts)
    }

    fn unmount_all(&self, mounts: Vec<MountPoint>) -> Result<()> {
        for mount in mounts {
            self.mounts.unmount(&mount.at)?;
        }
        Ok(())
    }

    /// `None` if there is no root directory.
    fn root(&self) -> Result<Option<Root>> {
        let dir = match SafeDir::open(&self.root_dir) {
            Err(error) if error.is_not_found() => return Ok(None),
            dir => dir?,
        };
        let link = PathBuf::from(format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd()));
        let path = std::fs::read_link(&link).map_err(|source| DirError::Call { op: "readlink", at: link, source })?;
        Ok(Some(Root { dir, path }))
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.directories.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("root_dir", &self.root_dir).finish_non_exhaustive()
    }
}

fn ours(mount: MountPoint) -> Result<MountPoint> {
    if mount.fs_type == OUR_FS {
        return Ok(mount);
    }
    Err(VolumeError::Foreign { at: mount.at, fs_type: mount.fs_type })
}

/// The directory that holds a place; `None` if a part of the way to it does not exist.
fn open_parent(root: &SafeDir, place: &Place) -> Result<Option<SafeDir>> {
    let mut dir = root.try_clone()?;
    for name in &place.parents {
        match dir.open_dir(name) {
            Err(error) if error.is_not_found() => return Ok(None),
            next => dir = next?,
        }
    }
    Ok(Some(dir))
}

fn exists(root: &SafeDir, place: &Place) -> Result<bool> {
    let Some(dir) = open_parent(root, place)? else { return Ok(false) };
    match dir.open_path(&place.last) {
        Err(error) if error.is_not_found() => Ok(false),
        found => Ok(found.map(|_| true)?),
    }
}

/// The volumes with a directory in the pod's.
fn volumes_of(root: &SafeDir, pod: &PodUid) -> BTreeSet<Key> {
    let names = names_at(root, &Place::of_plugin(pod)).unwrap_or_else(|error| {
        tracing::error!(%pod, error = error.with_causes(), "cannot look for volumes of a pod");
        Vec::new()
    });
    let volumes = names.iter().filter_map(|name| name.parse().ok());
    volumes.map(|volume| Key::of_pod(pod.clone(), volume)).collect()
}

/// The names in the directory at a place; none if it does not exist.
fn names_at(root: &SafeDir, place: &Place) -> Result<Vec<String>> {
    let Some(dir) = open_parent(root, place)? else { return Ok(Vec::new()) };
    match dir.open_dir(&place.last) {
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        dir => Ok(dir?.entries()?.into_iter().filter_map(|entry| entry.name.into_string().ok()).collect()),
    }
}

/// Removes a directory with what is in it, never across a mount.
fn remove_tree(root: &SafeDir, place: &Place) -> Result<()> {
    let Some(dir) = open_parent(root, place)? else { return Ok(()) };
    gone_is_fine(dir.remove_tree_no_xdev(&place.last))
}

/// Removes what a mount covered: an empty directory or a file.
fn remove_target(root: &SafeDir, place: &Place) -> Result<()> {
    let Some(dir) = open_parent(root, place)? else { return Ok(()) };
    match dir.remove_dir(&place.last) {
        Err(error) if kind_of(&error) == Some(io::ErrorKind::NotADirectory) => {
            gone_is_fine(dir.remove_file(&place.last))
        }
        removed => gone_is_fine(removed),
    }
}

fn remove_if_empty(root: &SafeDir, place: &Place) -> Result<()> {
    let Some(dir) = open_parent(root, place)? else { return Ok(()) };
    match dir.remove_dir(&place.last) {
        Err(error) if kind_of(&error) == Some(io::ErrorKind::DirectoryNotEmpty) => Ok(()),
        removed => gone_is_fine(removed),
    }
}

fn gone_is_fine(removed: Result<(), DirError>) -> Result<()> {
    match removed {
        Err(error) if error.is_not_found() => Ok(()),
        removed => Ok(removed?),
    }
}

fn kind_of(error: &DirError) -> Option<io::ErrorKind> {
    if let DirError::Call { source, .. } = error { Some(source.kind()) } else { None }
}

fn inode(fd: std::os::fd::BorrowedFd<'_>, dir: &SafeDir) -> Result<u64> {
    let metadata = fd.try_clone_to_owned().and_then(|fd| File::from(fd).metadata());
    let metadata = metadata.map_err(|source| DirError::Call { op: "fstat", at: dir.path().to_owned(), source })?;
    Ok(metadata.ino())
}

#[cfg(test)]
mod tests;
