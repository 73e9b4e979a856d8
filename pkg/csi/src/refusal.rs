//! Why a call is refused before anything is tried. Nothing here quotes a secret.

use imagevol_base::TargetError;
use tonic::{Code, Status};

use crate::attributes::AttributeError;

/// As `lsetxattr: read-only file system`, and the container does not start.
const WHY_READ_ONLY: &str = "the mount is read-only, and without it the kubelet has the container runtime relabel its files on nodes \
                             with SELinux, which fails";

/// What is wrong with a call.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0} is required")]
    Missing(&'static str),
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error(transparent)]
    Attribute(#[from] AttributeError),
    #[error("an image is a tree of files: it cannot be mounted as a block device")]
    Block,
    #[error("fsType cannot be chosen: an image is mounted as it is")]
    FsType,
    #[error("mount options cannot be chosen: an image is mounted read-only, nosuid and nodev")]
    MountFlags,
    #[error("the group of an image's files cannot be chosen: an image is mounted as it is")]
    MountGroup,
    #[error("readOnly: true is required in {0}: {WHY_READ_ONLY}")]
    NotReadOnly(&'static str),
    #[error("the kubelet does not say which pod the volume is for: the CSIDriver object needs podInfoOnMount: true")]
    NoPodInfo,
    #[error("the target path is in the directory of another pod")]
    OtherPod,
    #[error("the secret of nodePublishSecretRef has neither a key .dockerconfigjson nor a key .dockercfg")]
    NoPullSecret,
    // Without the parser's words, which would quote the token.
    #[error("the service account tokens of the kubelet cannot be read")]
    Tokens,
}

// === impl Refusal ===

impl Refusal {
    fn code(&self) -> Code {
        match self {
            Self::NoPodInfo => Code::FailedPrecondition,
            Self::Missing(_)
            | Self::Target(_)
            | Self::Attribute(_)
            | Self::Block
            | Self::FsType
            | Self::MountFlags
            | Self::MountGroup
            | Self::NotReadOnly(_)
            | Self::OtherPod
            | Self::NoPullSecret
            | Self::Tokens => Code::InvalidArgument,
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code(), refusal.to_string())
    }
}
