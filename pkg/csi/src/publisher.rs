//! What a door needs of the volume manager.

use async_trait::async_trait;
use imagevol_base::Target;
use imagevol_cri::ImageId;
use imagevol_volumemanager::{DoorVolume, PublishError, UnpublishError, VolumeRequest, Volumes};
use tokio::time::Instant;

/// Mounts volumes for pods. The product has one, [`Volumes`]; it is described there.
#[async_trait]
pub trait Publisher: Send + Sync {
    /// [`Volumes::publish`].
    async fn publish(&self, target: &Target, request: VolumeRequest, until: Instant) -> Result<ImageId, PublishError>;
    /// [`Volumes::unpublish`].
    async fn unpublish(&self, target: &Target) -> Result<(), UnpublishError>;
    /// [`Volumes::give_up`].
    fn give_up(&self, target: &Target);
    /// [`Volumes::list`].
    fn list(&self) -> Vec<(Target, DoorVolume)>;
}

#[async_trait]
impl Publisher for Volumes {
    async fn publish(&self, target: &Target, request: VolumeRequest, until: Instant) -> Result<ImageId, PublishError> {
        Self::publish(self, target, request, until).await
    }

    async fn unpublish(&self, target: &Target) -> Result<(), UnpublishError> {
        Self::unpublish(self, target).await
    }

    fn give_up(&self, target: &Target) {
        Self::give_up(self, target);
    }

    fn list(&self) -> Vec<(Target, DoorVolume)> {
        Self::list(self)
    }
}
