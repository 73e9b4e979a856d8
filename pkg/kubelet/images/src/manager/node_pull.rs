//! Pulls that no pod asks for: by command, and of lists of images that are to be present.

use imagevol_api::oci::Reference;
use imagevol_api::records::ImagePullCredentials;
use imagevol_cri::{Holder, ImageId, ImageReferences, ImageService, ImageServiceError, ImageSpec, Progress};
use tokio::time::Instant;

use super::ImageManager;
use super::tries::{Asked, try_each};
use crate::error::{ImageError, PullError};
use crate::policy::PullPolicy;
use crate::pull_manager::Intent;

/// The node itself wants an image.
#[derive(Debug, Clone, Copy)]
pub struct NodePull<'a> {
    /// The image, with its tag or digest.
    pub reference: &'a Reference,
    /// For whom the image stays on the node.
    pub holder: &'a Holder,
    /// When the registry is asked.
    pub policy: PullPolicy,
    /// Where the pull counts its bytes.
    pub progress: &'a Progress,
}

// === impl ImageManager ===

impl<S: ImageService + ImageReferences> ImageManager<S> {
    /// Makes the image present and ties `holder` to it, with the credentials that the node has for all pods, else as anybody. Tells no
    /// events, and remembers no failure: when to try again is the caller's to say.
    ///
    /// A local copy is used without asking whose it is: this gives no pod a right to it. What is pulled is recorded as a pod's pull with
    /// such credentials would be (KEP-2535, `nodePodsAccessible`): it is no preloaded image, and under another name nobody may use it.
    ///
    /// Dropping the future leaves the intent on disk; the image service decides whether the pull goes on for others.
    pub async fn pull_for_node(&self, wanted: NodePull<'_>) -> Result<ImageId, ImageError> {
        let image = wanted.reference.to_string();
        let spec = ImageSpec { image: image.clone(), user_specified_image: image.clone(), ..ImageSpec::default() };
        match wanted.policy {
            PullPolicy::Always => {}
            PullPolicy::IfNotPresent | PullPolicy::Never => {
                let present = self.bind_present(&spec, wanted.holder).await;
                if let Some(id) = present.map_err(|source| ImageError::Inspect { image: image.clone(), source })? {
                    return Ok(id);
                }
            }
        }
        if wanted.policy == PullPolicy::Never {
            return Err(ImageError::NeverPull { image });
        }
        self.pull_as_node(&spec, wanted).await
    }

    /// `None` if there is no local copy, or no more.
    async fn bind_present(&self, spec: &ImageSpec, holder: &Holder) -> Result<Option<ImageId>, ImageServiceError> {
        match self.service.status(spec).await? {
            Some(image) => self.service.bind(holder, &image.id).await,
            None => Ok(None),
        }
    }

    /// The intent is on disk before the pull and its outcome after it, so that a crash in between leaves no image that looks preloaded.
    async fn pull_as_node(&self, spec: &ImageSpec, wanted: NodePull<'_>) -> Result<ImageId, ImageError> {
        let image = &spec.image;
        let intent = self.records.record_pull_intent(image).await;
        let mut intent = intent.map_err(|source| ImageError::Intent { image: image.clone(), source })?;
        match self.pull_in_turn(spec, wanted, &mut intent).await {
            Ok(id) => {
                intent.succeed(&id, ImagePullCredentials::for_all_pods()).await;
                Ok(id)
            }
            Err(source) => {
                intent.withdraw().await;
                Err(ImageError::Pull { image: image.clone(), source })
            }
        }
    }

    /// The node's limits hold for its own pulls too.
    async fn pull_in_turn(
        &self,
        spec: &ImageSpec,
        wanted: NodePull<'_>,
        intent: &mut Intent,
    ) -> Result<ImageId, PullError> {
        let NodePull { reference, holder, progress, .. } = wanted;
        let matches = self.node.for_node(&reference.repository()).await;
        let queued = Instant::now();
        let _turn = self.puller.turn().await;
        if !self.puller.may_begin(Instant::now()) {
            return Err(PullError::QpsExceeded);
        }
        intent.begin();
        let pulled = try_each(&*self.service, Asked { spec, holder, progress }, &matches).await?;
        self.metrics.pulled(self.size_of(&pulled.id).await, queued.elapsed());
        Ok(pulled.id)
    }

    /// Bytes of an image; 0 if the image service does not say, which the pull does not fail for (kubelet, `pullImage`).
    pub(super) async fn size_of(&self, id: &ImageId) -> u64 {
        let spec = ImageSpec { image: id.to_string(), ..ImageSpec::default() };
        match self.service.status(&spec).await {
            Ok(image) => image.map_or(0, |image| image.size),
            Err(error) => {
                tracing::debug!(image = %id, %error, "size of the pulled image is not known");
                0
            }
        }
    }
}
