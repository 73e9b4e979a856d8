//! Places below the root directory, by names that are each one path component.

use std::path::{Path, PathBuf};

use imagevol_api::corev1::Pod;
use imagevol_api::names::{ContainerName, PodUid, VolumeName};
use imagevol_base::volumes::SubPathErrors;
use imagevol_base::{PODS, Target, VOLUMES};

use crate::sub_path::{SubPathMount, sub_path_mounts};
use crate::{Door, Key};

/// Directory of a pod's sub paths (config/defaults.go, `DefaultKubeletVolumeSubpathsDirName`).
const SUB_PATHS: &str = "volume-subpaths";
/// The plugin's name with its slash escaped, as the kubelet writes it in paths.
const ESCAPED_PLUGIN: &str = "kubernetes.io~image";

/// Where something of a pod is mounted: names from the root directory downwards. All of them are of closed types, or have been
/// read from a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub(super) parents: Vec<String>,
    pub(super) last: String,
    /// Whether the directories above are somebody else's, to be found and not to be made.
    pub(super) below_others: bool,
}

// === impl Place ===

impl Place {
    /// Where a volume is mounted.
    pub fn of(key: &Key) -> Self {
        key.target().map_or_else(|| Self::volume(&key.pod, &key.volume), |target| Self::target(&target))
    }

    /// All that is mounted of a volume of `pod`: the whole image, and sub paths but for those that could not be mounted. A kubelet
    /// makes the sub paths of its volumes itself.
    pub fn all_of(key: &Key, pod: &Pod, failed: &SubPathErrors) -> Vec<Self> {
        let sub_path = |mount: SubPathMount| {
            let at = (mount.container, mount.index);
            let is_mounted = mount.sub_path.is_ok() && !failed.contains_key(&at);
            is_mounted.then(|| Self::sub_path(&key.pod, &key.volume, &at.0, at.1))
        };
        let sub_paths = match key.door {
            Door::Pod => sub_path_mounts(pod, &key.volume),
            Door::Csi { .. } => Vec::new(),
        };
        [Self::of(key)].into_iter().chain(sub_paths.into_iter().filter_map(sub_path)).collect()
    }

    /// Where a kubelet wants a CSI volume, in a directory that the kubelet has made.
    fn target(target: &Target) -> Self {
        let (parents, leaf) = target.names();
        Self { parents: parents.map(str::to_owned).to_vec(), last: leaf.to_owned(), below_others: true }
    }

    /// Where a volume of a pod of ours is mounted.
    pub fn volume(pod: &PodUid, volume: &VolumeName) -> Self {
        Self::new(pod, &[VOLUMES, ESCAPED_PLUGIN], volume.as_str())
    }

    /// Where a sub path is mounted: `index` is the position in the container's `volumeMounts`.
    pub fn sub_path(pod: &PodUid, volume: &VolumeName, container: &ContainerName, index: u32) -> Self {
        Self::sub_paths(pod, volume).child(container.as_str()).child(&index.to_string())
    }

    /// The directory of a volume's sub paths.
    pub(super) fn sub_paths(pod: &PodUid, volume: &VolumeName) -> Self {
        Self::new(pod, &[SUB_PATHS], volume.as_str())
    }

    /// The directory with a child for each volume of ours.
    pub(super) fn of_plugin(pod: &PodUid) -> Self {
        Self::new(pod, &[VOLUMES], ESCAPED_PLUGIN)
    }

    /// What is to go when it is empty, in that order.
    pub(super) fn parents_of_volumes(pod: &PodUid) -> [Self; 4] {
        let of_pod = Self { parents: vec![PODS.to_owned()], last: pod.to_string(), below_others: false };
        [Self::new(pod, &[], SUB_PATHS), Self::of_plugin(pod), Self::new(pod, &[], VOLUMES), of_pod]
    }

    /// A place beneath.
    pub(super) fn child(&self, name: &str) -> Self {
        let mut parents = self.parents.clone();
        parents.push(self.last.clone());
        Self { parents, last: name.to_owned(), below_others: self.below_others }
    }

    /// The path below a root directory.
    pub(super) fn below(&self, root: &Path) -> PathBuf {
        let names = self.parents.iter().chain([&self.last]);
        root.iter().chain(names.map(AsRef::as_ref)).collect()
    }

    fn new(pod: &PodUid, between: &[&str], last: &str) -> Self {
        let parents = [PODS, pod.as_str()].into_iter().chain(between.iter().copied());
        Self { parents: parents.map(str::to_owned).collect(), last: last.to_owned(), below_others: false }
    }
}

/// The volume that a mount at a path belongs to: itself or one of its sub paths.
pub(super) fn owner_at(root: &Path, at: &Path) -> Option<Key> {
    let names: Vec<&str> = at.strip_prefix(root).ok()?.iter().map(|name| name.to_str()).collect::<Option<_>>()?;
    match names.as_slice() {
        [PODS, pod, SUB_PATHS, volume, _, _] => Some(Key::of_pod(pod.parse().ok()?, volume.parse().ok()?)),
        _ => volume_at(root, at),
    }
}

/// The volume that is mounted at a path, if the path is one of a volume.
pub(super) fn volume_at(root: &Path, at: &Path) -> Option<Key> {
    if let Ok(target) = Target::parse(root, at) {
        return Some(target.into());
    }
    let names: Vec<&str> = at.strip_prefix(root).ok()?.iter().map(|name| name.to_str()).collect::<Option<_>>()?;
    match names.as_slice() {
        [PODS, pod, VOLUMES, ESCAPED_PLUGIN, volume] => {
            Some(Key { pod: pod.parse().ok()?, volume: volume.parse().ok()?, door: Door::Pod })
        }
        _ => None,
    }
}
