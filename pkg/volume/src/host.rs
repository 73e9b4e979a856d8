//! The kubelet-shaped directories of pods, walked by descriptor: no symlink that somebody planted is followed.
//!
//! ```text
//! <root-dir>/pods/<uid>/volumes/kubernetes.io~image/<volume>              the whole image
//! <root-dir>/pods/<uid>/volume-subpaths/<volume>/<container>/<index>      a sub path, directory or file
//! ```

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use imagevol_api::names::{ContainerName, PodUid, VolumeName};
use imagevol_mount::{DetachedMount, Interface, MountKind, SafeDir};
use std::os::fd::AsFd as _;

use crate::{Result, VolumeError};

/// The plugin's name with its slash escaped, as the kubelet writes it in paths.
const ESCAPED_PLUGIN: &str = "kubernetes.io~image";
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

/// A volume that was found on disk or in the mount table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Its pod.
    pub pod: PodUid,
    /// Its name.
    pub volume: VolumeName,
}

// === impl Host ===

impl Host {
    /// The pods below `<root_dir>/pods`.
    pub fn new(root_dir: PathBuf, mounts: Arc<dyn Interface>) -> Self {
        Self { root_dir, mounts, directories: Arc::default() }
    }

    /// Where a volume is mounted.
    pub fn volume_path(&self, pod: &PodUid, volume: &VolumeName) -> PathBuf {
        self.pod_dir(pod).join("volumes").join(ESCAPED_PLUGIN).join(volume.as_str())
    }

    /// Where a sub path is mounted.
    pub fn sub_path_path(&self, pod: &PodUid, volume: &VolumeName, container: &ContainerName, index: u32) -> PathBuf {
        self.sub_paths_of(pod, volume).join(container.as_str()).join(index.to_string())
    }

    /// Whether our mount is there.
    pub fn is_mounted(&self, at: &Path) -> Result<bool> {
        match self.mounts.mounted_at(at)? {
            Some(mount) if mount.fs_type != OUR_FS => {
                Err(VolumeError::Foreign { at: at.to_owned(), fs_type: mount.fs_type })
            }
            mount => Ok(mount.is_some()),
        }
    }

    /// Attaches a mount, after making the directory or the file that it covers.
    ///
    /// Killed before the attach: an empty directory, which reconstruction finds and removes or uses.
    pub fn attach(&self, mount: DetachedMount, at: &Path) -> Result<()> {
        let _guard = self.lock();
        let names: Vec<&str> = self.names_below_root(at);
        let Some((last, parents)) = names.split_last() else { return Err(VolumeError::NotAnImage) };
        let mut dir = SafeDir::open(&self.root_dir)?;
        for name in parents {
            dir = dir.make_dir(name, DIR_MODE)?;
        }
        match mount.kind() {
            MountKind::Directory => self.mounts.attach(mount, dir.make_dir(last, DIR_MODE)?.as_fd())?,
            MountKind::File => self.mounts.attach(mount, dir.make_file(last)?.as_fd())?,
        }
        Ok(())
    }

    /// Unmounts a volume with its sub paths and removes its directories; parents go when they are empty.
    ///
    /// Killed anywhere in between: what is left is found by the next start.
    pub fn remove_volume(&self, pod: &PodUid, volume: &VolumeName) -> Result<()> {
        let _guard = self.lock();
        for place in [self.sub_paths_of(pod, volume), self.volume_path(pod, volume)] {
            let mut mounts = self.mounts.list(&place)?;
            // Deepest first: a parent with a mount inside would only be detached with it.
            mounts.sort_by_key(|mount| std::cmp::Reverse(mount.at.components().count()));
            for mount in mounts {
                self.mounts.unmount(&mount.at)?;
            }
            self.remove_below_pod(pod, &place)?;
        }
        self.remove_empty_parents(pod)
    }

    /// Every volume of ours that has a directory or a mount.
    pub fn find_volumes(&self) -> Result<BTreeSet<Found>> {
        let mut found = BTreeSet::new();
        let Some(pods) = self.open_pods()? else { return Ok(found) };
        for entry in pods.entries()? {
            let Some(pod) = entry.name.to_str().and_then(|name| name.parse::<PodUid>().ok()) else { continue };
            for family in [&["volumes", ESCAPED_PLUGIN][..], &["volume-subpaths"][..]] {
                let names = children(&pods, pod.as_str(), family)?;
                let volumes = names.iter().filter_map(|name| name.parse().ok());
                found.extend(volumes.map(|volume| Found { pod: pod.clone(), volume }));
            }
        }
        Ok(found)
    }

    fn open_pods(&self) -> Result<Option<SafeDir>> {
        match SafeDir::open(&self.root_dir).and_then(|root| root.open_dir("pods")) {
            Err(error) if error.is_not_found() => Ok(None),
            other => Ok(Some(other?)),
        }
    }

    /// Removes a directory of the pod with what is in it, never across a mount.
    fn remove_below_pod(&self, pod: &PodUid, place: &Path) -> Result<()> {
        let names = self.names_below_root(place);
        let Some((last, parents)) = names.split_last() else { return Ok(()) };
        debug_assert!(parents.contains(&pod.as_str()));
        let mut dir = SafeDir::open(&self.root_dir)?;
        for name in parents {
            match dir.open_dir(name) {
                Err(error) if error.is_not_found() => return Ok(()),
                next => dir = next?,
            }
        }
        match dir.remove_tree_no_xdev(last) {
            Err(error) if error.is_not_found() => Ok(()),
            other => Ok(other?),
        }
    }

    fn remove_empty_parents(&self, pod: &PodUid) -> Result<()> {
        let pod_dir = self.pod_dir(pod);
        let parents = [
            pod_dir.join("volume-subpaths"),
            pod_dir.join("volumes").join(ESCAPED_PLUGIN),
            pod_dir.join("volumes"),
            pod_dir,
        ];
        for parent in parents {
            self.remove_if_empty(&parent)?;
        }
        Ok(())
    }

    fn remove_if_empty(&self, place: &Path) -> Result<()> {
        let names = self.names_below_root(place);
        let Some((last, parents)) = names.split_last() else { return Ok(()) };
        let mut dir = SafeDir::open(&self.root_dir)?;
        for name in parents {
            match dir.open_dir(name) {
                Err(error) if error.is_not_found() => return Ok(()),
                next => dir = next?,
            }
        }
        let empty = match dir.open_dir(last) {
            Err(error) if error.is_not_found() => return Ok(()),
            child => child?.entries()?.is_empty(),
        };
        if empty { Ok(dir.remove_dir(last)?) } else { Ok(()) }
    }

    fn pod_dir(&self, pod: &PodUid) -> PathBuf {
        self.root_dir.join("pods").join(pod.as_str())
    }

    fn sub_paths_of(&self, pod: &PodUid, volume: &VolumeName) -> PathBuf {
        self.pod_dir(pod).join("volume-subpaths").join(volume.as_str())
    }

    /// The components after the root; all of them are of closed types.
    fn names_below_root<'a>(&self, path: &'a Path) -> Vec<&'a str> {
        let below = path.strip_prefix(&self.root_dir).unwrap_or(Path::new(""));
        below.components().filter_map(|component| component.as_os_str().to_str()).collect()
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

fn children(pods: &SafeDir, pod: &str, family: &[&str]) -> Result<Vec<String>> {
    let mut dir = pods.open_dir(pod)?;
    for name in family {
        match dir.open_dir(name) {
            Err(error) if error.is_not_found() => return Ok(Vec::new()),
            next => dir = next?,
        }
    }
    Ok(dir.entries()?.into_iter().filter_map(|entry| entry.name.into_string().ok()).collect())
}
