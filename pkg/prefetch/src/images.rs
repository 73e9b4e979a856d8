//! The node's images, as far as lists need them.

use std::time::Duration;

use async_trait::async_trait;
use imagevol_base::Holder;
use imagevol_cri::{ImageId, ImageServiceError, Progress};
use imagevol_images::PullPolicy;
use jiff::Timestamp;

/// What keeping images present takes. Implemented where the image service and the image manager are wired.
#[async_trait]
pub trait NodeImages: Send + Sync + 'static {
    /// The rows of lists, by holder; those of commands too.
    async fn rows(&self) -> Result<Vec<(Holder, Row)>, ImageServiceError>;

    /// The image that a normalized reference leads to on this node.
    async fn present(&self, reference: &str) -> Result<Option<Present>, ImageServiceError>;

    /// Writes that `holder` wants a reference, present or not, until it is released. Again takes an end away that it may have.
    async fn hold(&self, holder: &Holder, reference: &str) -> Result<(), ImageServiceError>;

    /// Lets the row of `holder` end after `lasts`, or as soon as a pod uses its image.
    async fn hold_for(&self, holder: &Holder, reference: &str, lasts: Duration) -> Result<(), ImageServiceError>;

    /// Ties the row of `holder` to an image that is present; nothing if it is not any more.
    async fn bind(&self, holder: &Holder, image: &ImageId) -> Result<(), ImageServiceError>;

    /// Takes the row back. Absent is not an error.
    async fn release(&self, holder: &Holder) -> Result<(), ImageServiceError>;

    /// Makes an image present with the node's own credentials, and ties the row of the holder to it. Dropping the future gives it up.
    async fn pull(&self, wanted: Wanted<'_>, progress: &Progress) -> Result<ImageId, PullFailed>;
}

/// A row that keeps an image for a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What is wanted, normalized.
    pub reference: String,
    /// The image, once it is there for it.
    pub image: Option<ImageId>,
    /// When it ends, unless a pod uses the image before; `None` for one that lasts until it is released.
    pub expires: Option<Timestamp>,
}

/// An image that is present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// Which.
    pub image: ImageId,
    /// When the registry was asked for it last.
    pub pulled_at: Timestamp,
}

/// What is to be pulled, and for whom.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Whose row keeps it.
    pub holder: &'a Holder,
    /// The reference, normalized.
    pub reference: &'a str,
    /// When the registry is asked.
    pub policy: PullPolicy,
}

/// Why an image could not be pulled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PullFailed {
    /// For the user: it holds no secret.
    pub message: String,
}
