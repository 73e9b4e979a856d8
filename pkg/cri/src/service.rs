//! The contract of an image service.

use async_trait::async_trait;
use imagevol_api::auth::Credential;
use imagevol_base::collection::{Collection, Execution, Turn, Turns, Wish};

use crate::{FilesystemUsage, Holder, Image, ImageId, ImageSpec, Progress, Result};

/// Images of the node: the CRI's `ImageService`, with the holder and the progress that the CRI lacks.
#[async_trait]
pub trait ImageService: Send + Sync {
    /// All images that are present.
    async fn list(&self) -> Result<Vec<Image>>;

    /// The image that `image` names, if it is present.
    async fn status(&self, image: &ImageSpec) -> Result<Option<Image>>;

    /// Makes the image that the registry has under `image` present, and the reference of `holder` lead to it.
    ///
    /// The registry is always asked, with `credential`. Dropping the future leaves the pull running as long as another holder
    /// waits for it.
    async fn pull(
        &self,
        image: &ImageSpec,
        credential: &Credential,
        holder: &Holder,
        progress: &Progress,
    ) -> Result<ImageId>;

    /// Removes an image. In use is an error that names the holders; absent is not an error.
    async fn remove(&self, image: &ImageSpec) -> Result<()>;

    /// How full the file system of images is.
    async fn fs_info(&self) -> Result<FilesystemUsage>;
}

/// Rows that keep images from garbage collection.
#[async_trait]
pub trait ImageReferences: Send + Sync {
    /// Writes that `holder` wants the image that `reference` names, present or not. Again is not an error.
    async fn hold(&self, holder: &Holder, reference: &str) -> Result<()>;

    /// Ties the row of `holder` to an image that is present, in the transaction that finds it present.
    ///
    /// `None` if the image is not (any more) present.
    async fn bind(&self, holder: &Holder, image: &ImageId) -> Result<Option<ImageId>>;

    /// Takes the row back. Absent is not an error.
    async fn release(&self, holder: &Holder) -> Result<()>;

    /// Every row: holder, reference, image if one is bound.
    async fn holders(&self) -> Result<Vec<(Holder, String, Option<ImageId>)>>;
}

/// Removal of images that nobody needs.
#[async_trait]
pub trait ImageCollector: Send + Sync {
    /// Turns to collect, for all who do on this node.
    fn turns(&self) -> &Turns;

    /// Removes images until the wish is met, least recently used first: never one that is held, pinned, mounted or young. What one
    /// image's removal runs into is told, and keeps no other image. The caller has the turn since before he looked at what is to be
    /// freed.
    async fn collect(&self, turn: &Turn, wish: Wish, execution: Execution) -> Result<Collection>;
}
