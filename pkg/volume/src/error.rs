//! Why a volume is not mounted, with the reason that the pod's status shows.

use std::path::PathBuf;

use imagevol_cri::{ImageId, ImageServiceError};
use imagevol_images::ImageError;
use imagevol_mount::{DirError, MountError};

/// A result of a volume plugin.
pub type Result<T, E = VolumeError> = std::result::Result<T, E>;

/// One step that failed.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The image is not to be had.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The image service could not make the mount, or write a row.
    #[error("image service failed")]
    Service(#[from] ImageServiceError),
    /// The mount could not be attached, listed or removed.
    #[error("mount operation failed")]
    Mount(#[from] MountError),
    /// A directory of the pod could not be made, read or removed.
    #[error("pod directory cannot be used")]
    Directory(#[from] DirError),
    /// Something else is mounted where the volume belongs. It is left alone.
    #[error("{} is a mount of {fs_type}, which imagevol did not make", at.display())]
    Foreign {
        /// Where.
        at: PathBuf,
        /// What.
        fs_type: String,
    },
    /// The directory that a kubelet wants the volume in has content, which a mount would hide.
    #[error("{} is not empty", at.display())]
    NotEmpty {
        /// Which.
        at: PathBuf,
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
    /// A blocking call panicked, or was dropped at shutdown.
    #[error("blocking call ended early")]
    Task(#[from] tokio::task::JoinError),
    /// The operation itself ended without a result.
    #[error("operation panicked")]
    Panicked,
}

/// A set-up that did not come to its end.
#[derive(Debug)]
pub struct SetUpFailed {
    /// Why.
    pub error: VolumeError,
    /// The image that was decided on: the next try is for that one.
    pub decided: Option<ImageId>,
}

// === impl VolumeError ===

impl VolumeError {
    /// The image's own error, whose reason and message the kubelet shows.
    pub fn as_image(&self) -> Option<&ImageError> {
        if let Self::Image(error) = self { Some(error) } else { None }
    }

    /// The error with all that caused it, in one line.
    pub fn with_causes(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

// === impl SetUpFailed ===

impl<E: Into<VolumeError>> From<E> for SetUpFailed {
    /// Nothing had been decided yet.
    fn from(error: E) -> Self {
        Self { error: error.into(), decided: None }
    }
}
