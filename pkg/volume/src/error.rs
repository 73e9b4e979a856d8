//! Why a volume is not mounted, with the reason that the pod's status shows.

use std::path::PathBuf;
use std::sync::Arc;

use imagevol_cri::ImageServiceError;
use imagevol_images::ImageError;
use imagevol_mount::{DirError, MountError};

/// A result of a volume plugin.
pub type Result<T, E = VolumeError> = std::result::Result<T, E>;

/// One step that failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum VolumeError {
    /// The image is not to be had.
    #[error(transparent)]
    Image(Arc<ImageError>),
    /// The image service could not make the mount, or write a row.
    #[error("image service: {0}")]
    Service(#[from] ImageServiceError),
    /// The mount could not be attached or removed.
    #[error("mount: {0}")]
    Mount(Arc<MountError>),
    /// A directory of the pod could not be made, read or removed.
    #[error("pod directory: {0}")]
    Directory(Arc<DirError>),
    /// Something else is mounted where the volume belongs.
    #[error("{} is a mount of {fs_type}, which imagevol did not make", at.display())]
    Foreign {
        /// Where.
        at: PathBuf,
        /// What.
        fs_type: String,
    },
    /// No plugin takes the volume.
    #[error("no volume plugin matched")]
    NoPlugin,
    /// The volume is not one of an image.
    #[error("the volumeSpec does not reference an Image volume type")]
    NotAnImage,
    /// A name cannot be a directory; validation lets no such pod through.
    #[error(transparent)]
    Name(#[from] imagevol_api::names::NameError),
    /// Nobody wants the volume any more.
    #[error("volume is not wanted any more")]
    Cancelled,
    /// A blocking task panicked or was dropped at shutdown.
    #[error("volume task failed: {0}")]
    Task(String),
}

// === impl VolumeError ===

impl VolumeError {
    /// The image's own error, whose reason and message the kubelet shows.
    pub fn as_image(&self) -> Option<&ImageError> {
        match self {
            Self::Image(error) => Some(error),
            Self::Service(_)
            | Self::Mount(_)
            | Self::Directory(_)
            | Self::Foreign { .. }
            | Self::NoPlugin
            | Self::NotAnImage
            | Self::Name(_)
            | Self::Cancelled
            | Self::Task(_) => None,
        }
    }
}

impl From<ImageError> for VolumeError {
    fn from(error: ImageError) -> Self {
        Self::Image(Arc::new(error))
    }
}

impl From<MountError> for VolumeError {
    fn from(error: MountError) -> Self {
        Self::Mount(Arc::new(error))
    }
}

impl From<DirError> for VolumeError {
    fn from(error: DirError) -> Self {
        Self::Directory(Arc::new(error))
    }
}
