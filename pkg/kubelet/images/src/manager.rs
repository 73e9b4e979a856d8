//! The image manager: makes sure that a pod's image is present, that the pod may use it, and that its owner hears of it
//! (Kubernetes, `pkg/kubelet/images/image_manager.go`).

use std::collections::BTreeSet;
use std::sync::Arc;

use imagevol_api::corev1::{ObjectReference, Pod};
use imagevol_api::names::PodUid;
use imagevol_api::oci::Platform;
use imagevol_base::{EventKind, EventRecorder, Holder};
use imagevol_cri::{ImageId, ImageReferences, ImageService, ImageServiceError, Progress};
use tokio::time::Instant;

use crate::claims::Claims;
use crate::credentials::PullSecrets;
use crate::error::{ImageError, Notice};
use crate::failures::{BackoffLimits, Failures};
use crate::metrics::Metrics;
use crate::node_credentials::{NodeConfigPaths, NodeCredentials};
use crate::policy::{Facts, Outcome, PullPolicy};
use crate::providers::CredentialProviders;
use crate::pull_manager::{EarlierPulls, PullManager, RecordError};
use crate::puller::{PullLimits, Puller};

mod attempt;
mod named;
mod node_pull;
mod tries;

use attempt::Attempt;
use named::Named;
pub use node_pull::NodePull;

/// Decides whether, when and with which credential to pull, and has it done by the image service.
///
/// Requests do not wait for each other, but for the limits on pulls. A request that is dropped leaves nothing half-done.
pub struct ImageManager<S> {
    service: Arc<S>,
    events: Arc<dyn EventRecorder>,
    secrets: Arc<dyn PullSecrets>,
    node: NodeCredentials,
    records: PullManager,
    failures: Failures,
    puller: Puller,
    metrics: Metrics,
}

/// What an image manager is made of.
#[expect(missing_debug_implementations, reason = "its parts are traits of others")]
pub struct Parts<S> {
    /// Where images are.
    pub service: Arc<S>,
    /// Where events go.
    pub events: Arc<dyn EventRecorder>,
    /// Where pods' pull secrets come from.
    pub secrets: Arc<dyn PullSecrets>,
    /// Where the node's own credentials are.
    pub node_config: NodeConfigPaths,
    /// The plugins that know further credentials.
    pub providers: CredentialProviders,
    /// What was pulled with whose credentials.
    pub records: PullManager,
    /// How many pulls run and begin.
    pub limits: PullLimits,
    /// How long a failed pull waits.
    pub backoff: BackoffLimits,
    /// Where requests are counted.
    pub metrics: Metrics,
}

/// A pod wants an image.
#[derive(Debug)]
pub struct EnsureImage<'a> {
    /// The pod.
    pub pod: &'a Arc<Pod>,
    /// For whom the image stays on the node. For a volume its pod is the pod, whose back-off it shares.
    pub holder: Holder,
    /// The image as the pod's author wrote it.
    pub reference: &'a str,
    /// For which platform, if not for the node's own.
    pub platform: Option<&'a Platform>,
    /// When the registry is asked.
    pub policy: PullPolicy,
    /// What the events are about.
    pub about: &'a ObjectReference,
    /// What the pod shows beside its pull secrets.
    pub claims: &'a Claims,
    /// Where the pull counts its bytes.
    pub progress: &'a Progress,
}

/// Why intents of an earlier run could not be settled.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The image service does not say what it has.
    #[error("failed to list images")]
    List(#[source] ImageServiceError),
    /// The records cannot be changed.
    #[error("failed to settle pull intents")]
    Records(#[source] RecordError),
}

// === impl ImageManager ===

impl<S> ImageManager<S> {
    /// A manager that nothing has failed for yet.
    pub fn new(parts: Parts<S>) -> Self {
        Self {
            service: parts.service,
            events: parts.events,
            secrets: parts.secrets,
            node: NodeCredentials::new(parts.node_config, parts.providers),
            records: parts.records,
            failures: Failures::new(parts.backoff),
            puller: Puller::new(parts.limits, Instant::now()),
            metrics: parts.metrics,
        }
    }

    /// Forgets the failures of a pod that is gone, or that starts anew by command: its next pull begins at once.
    pub fn forget(&self, pod: &PodUid) {
        self.failures.forget(pod);
    }

    /// What the node itself may show registries, for pulls that are no pod's.
    pub fn node_credentials(&self) -> &NodeCredentials {
        &self.node
    }

    pub(crate) fn service(&self) -> &S {
        &self.service
    }

    pub(crate) fn events(&self) -> &dyn EventRecorder {
        &*self.events
    }

    #[cfg(test)]
    pub(crate) fn records(&self) -> &PullManager {
        &self.records
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn tell(&self, about: &ObjectReference, notice: Notice) {
        self.events.record(about, notice.kind, notice.reason, notice.message);
    }

    fn tell_normal(&self, about: &ObjectReference, reason: &'static str, message: String) {
        self.tell(about, Notice { kind: EventKind::Normal, reason, message });
    }
}

impl<S: ImageService + ImageReferences> ImageManager<S> {
    /// Settles what an earlier run left behind. To be called once, before the first request.
    pub async fn recover(&self, earlier: EarlierPulls) -> Result<(), RecoverError> {
        let images = self.service.list().await.map_err(RecoverError::List)?;
        self.records.recover(images, earlier).await.map_err(RecoverError::Records)
    }

    /// Drops the pull records of images that are gone. To be called after images were removed.
    pub async fn prune_records(&self) -> Result<(), RecoverError> {
        let until = jiff::Timestamp::now();
        let images = self.service.list().await.map_err(RecoverError::List)?;
        let present: BTreeSet<ImageId> = images.into_iter().map(|image| image.id).collect();
        self.records.prune(present, until).await.map_err(RecoverError::Records)
    }

    /// Makes the image present, the pod's right to it proved and `holder` tied to it; says what happens in events.
    ///
    /// Every error has been told to the pod's owner. Dropping the future gives the request up; the image service decides
    /// whether the pull goes on for others.
    pub async fn ensure_image_exists(&self, request: EnsureImage<'_>) -> Result<ImageId, ImageError> {
        let ended = match Named::parse(&request) {
            Ok(named) => Attempt::new(self, &request, named).run().await,
            Err(source) => {
                self.metrics.requested(request.policy, Facts::of(Outcome::Failed));
                Err(ImageError::InvalidName { image: request.reference.to_owned(), source })
            }
        };
        ended.inspect_err(|error| self.tell(request.about, error.notice()))
    }
}

impl<S> std::fmt::Debug for ImageManager<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageManager").field("failures", &self.failures).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
