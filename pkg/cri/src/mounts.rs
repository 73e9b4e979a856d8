//! Mounting of images, which the CRI lacks.

use async_trait::async_trait;
use imagevol_mount::{DetachedMount, Exec, SubPath};

use crate::{ImageId, Result};

/// One mount of an image.
#[derive(Debug, Clone, Copy)]
pub struct MountRequest<'a> {
    /// Which image; it must be bound to a holder.
    pub image: &'a ImageId,
    /// The directory or file inside the image; the whole of it if absent.
    pub sub_path: Option<&'a SubPath>,
    /// Read-only, nosuid and nodev always; whether noexec too.
    pub exec: Exec,
}

/// Mounts of images that are present.
#[async_trait]
pub trait ImageMounts: Send + Sync {
    /// Makes the mount, detached: nobody sees it until it is attached somewhere.
    async fn mount(&self, request: MountRequest<'_>) -> Result<DetachedMount>;
}
