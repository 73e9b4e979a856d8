//! What became of the image volumes of each pod: the volume manager says it, status and events are made from it.

use std::collections::BTreeMap;

use imagevol_api::names::{ContainerName, PodUid, VolumeName};
use imagevol_api::oci::Digest;
use tokio::time::Instant;

/// The image volumes of every pod that has been seen.
pub type VolumeReports = BTreeMap<PodUid, PodVolumeReport>;

/// The image volumes of one pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodVolumeReport {
    /// By name of the volume.
    pub volumes: BTreeMap<VolumeName, VolumeState>,
    /// Mounts of sub paths that failed.
    pub sub_path_errors: SubPathErrors,
}

// === impl PodVolumeReport ===

impl PodVolumeReport {
    /// Whether a volume or the mount of a sub path has failed.
    pub fn fails(&self) -> bool {
        let failed = |state: &VolumeState| matches!(state, VolumeState::Failed(_));
        !self.sub_path_errors.is_empty() || self.volumes.values().any(failed)
    }
}

/// Mounts of sub paths that failed, by container and position in its `volumeMounts`.
pub type SubPathErrors = BTreeMap<(ContainerName, u32), SubPathError>;

/// Why a sub path is not mounted: its container cannot be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubPathError {
    /// The waiting reason: `CreateContainerError`, or `CreateContainerConfigError` if the pod itself is at fault.
    pub reason: &'static str,
    /// For the user.
    pub message: String,
}

/// What became of one image volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeState {
    /// Nothing is decided yet.
    Waiting,
    /// Its image is being looked up or pulled.
    Pulling,
    /// It is mounted.
    Mounted {
        /// The manifest digest that is mounted.
        image: Digest,
    },
    /// The last attempt failed.
    Failed(VolumeFailure),
}

/// Why a volume is not mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeFailure {
    /// The waiting reason: `ErrImagePull`, `ImagePullBackOff`, ...
    pub reason: &'static str,
    /// The waiting message.
    pub message: String,
    /// Whether trying again can help.
    pub outlook: Outlook,
    /// Whose fault it is.
    pub cause: FailureCause,
}

/// Whose fault it is that a volume is not mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureCause {
    /// The registry does not have the image.
    NotFound,
    /// The registry refuses the credentials that were shown, or wants some.
    Denied,
    /// The reference is no reference.
    InvalidName,
    /// The image is not here, and may not be pulled.
    NeverPull,
    /// The image's content breaks a rule, or a signature does not hold.
    InvalidContent,
    /// A pull secret cannot be read.
    Credentials,
    /// The registry cannot be reached, or has no time.
    Unavailable,
    /// The node.
    Node,
}

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    /// No: the pod, the secret or the registry has to change first.
    Final,
    /// It may.
    Passing {
        /// The first failure since bytes last came in.
        failing_since: Instant,
    },
}
