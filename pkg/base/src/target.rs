//! Where a kubelet wants a CSI volume.

use std::path::{Path, PathBuf};

use imagevol_api::names::{LeafName, PodUid, VolumeName};

/// Directory of all pods below the kubelet's root (kubelet_getters.go, `getPodsDir`).
pub const PODS: &str = "pods";
/// Directory of a pod's volumes (config/defaults.go, `DefaultKubeletVolumesDirName`).
pub const VOLUMES: &str = "volumes";
/// The kubelet's own CSI plugin, as it writes it in paths (pkg/volume/csi, `CSIPluginName`, escaped).
const CSI_PLUGIN: &str = "kubernetes.io~csi";

/// A `target_path` of CSI that lies where a kubelet puts it: `<root>/pods/<uid>/volumes/kubernetes.io~csi/<volume>/<leaf>`.
///
/// `volume` is the volume's name in the pod's spec, or that of the persistent volume; the leaf is `mount`. No other path is taken from
/// a caller: whoever can speak to the socket cannot have something mounted elsewhere on the node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The pod.
    pub pod: PodUid,
    /// The volume.
    pub volume: VolumeName,
    /// The directory that is made for the mount.
    pub leaf: LeafName,
}

/// The path is not one of a pod's CSI volume below the kubelet's root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("target path {path:?} is not of the form {root}/{PODS}/<pod uid>/{VOLUMES}/{CSI_PLUGIN}/<volume>/<directory>")]
pub struct TargetError {
    path: String,
    root: String,
}

// === impl Target ===

impl Target {
    /// Reads a path, by its text alone: nothing has to exist, and no link is followed.
    pub fn parse(root_dir: &Path, target_path: &Path) -> Result<Self, TargetError> {
        let error = || TargetError { path: target_path.display().to_string(), root: root_dir.display().to_string() };
        Self::below_root(root_dir, target_path).ok_or_else(error)
    }

    /// The path below a kubelet's root.
    pub fn below(&self, root_dir: &Path) -> PathBuf {
        let (parents, leaf) = self.names();
        root_dir.iter().chain(parents.map(AsRef::as_ref)).chain([leaf.as_ref()]).collect()
    }

    /// The parts of that path: the kubelet's own directories, and the one that is made for the mount.
    pub fn names(&self) -> ([&str; 5], &str) {
        ([PODS, self.pod.as_str(), VOLUMES, CSI_PLUGIN, self.volume.as_str()], self.leaf.as_str())
    }

    fn below_root(root_dir: &Path, target_path: &Path) -> Option<Self> {
        let names = target_path.strip_prefix(root_dir).ok()?.iter().map(|name| name.to_str());
        match names.collect::<Option<Vec<_>>>()?.as_slice() {
            [PODS, pod, VOLUMES, CSI_PLUGIN, volume, leaf] => {
                Some(Self { pod: pod.parse().ok()?, volume: volume.parse().ok()?, leaf: leaf.parse().ok()? })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(path: &str) -> Result<Target, TargetError> {
        Target::parse(Path::new("/var/lib/kubelet"), Path::new(path))
    }

    #[test]
    fn a_kubelets_path_comes_back() {
        for path in [
            "/var/lib/kubelet/pods/0b5a7bd0-3b0b/volumes/kubernetes.io~csi/models/mount",
            "/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/pv.with.dots/mount",
        ] {
            assert_eq!(parse(path).unwrap().below(Path::new("/var/lib/kubelet")), Path::new(path));
        }
    }

    #[test]
    fn refuses_every_other_path() {
        for path in [
            "",
            "/",
            "pods/u/volumes/kubernetes.io~csi/v/mount",
            "/etc/pods/u/volumes/kubernetes.io~csi/v/mount",
            "/var/lib/kubelet",
            "/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/v",
            "/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/v/mount/more",
            "/var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/v/mount",
            "/var/lib/kubelet/pods/../volumes/kubernetes.io~csi/v/mount",
            "/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/../mount",
            "/var/lib/kubelet/../kubelet/pods/u/volumes/kubernetes.io~csi/v/mount",
            "/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/v/..",
            "/var/lib/kubelet-other/pods/u/volumes/kubernetes.io~csi/v/mount",
        ] {
            assert!(parse(path).is_err(), "{path}");
        }
    }
}
