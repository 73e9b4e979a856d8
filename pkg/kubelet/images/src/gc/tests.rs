//! The kubelet's tests of its image garbage collection (`pkg/kubelet/images/image_gc_manager_test.go`), by their upstream names, and
//! ours.
//!
//! What upstream tests on its memory of images is a matter of rows here, and is tested beside them, in `pkg/store`
//! (`tests/store/lifetimes.rs`, `an_image_is_seen_once_and_used_until_its_holder_lets_go`): `TestDetectImagesInitialDetect`,
//! `TestDetectImagesWithNewImage`, `TestDetectImagesContainerStopped`, `TestDetectImagesWithRemovedImages`. Order, ties, and what stays
//! are tested here against a model and there against the rows (`src/plan/tests.rs`). `TestImageCacheReturnCopiedList` has no
//! counterpart: there is no cached list.

use std::sync::{Mutex as StdMutex, PoisonError};

use async_trait::async_trait;
use imagevol_api::corev1::Pod;
use imagevol_base::collection::Stay;
use imagevol_base::{EventRecorder, Holder};
use imagevol_cri::{ImageId, ImageServiceError};
use imagevol_test_support::image_service::{Disk as FakeDisk, FakeImageService, Pinned};
use prometheus_client::registry::Registry;
use rstest::rstest;

use super::*;
use crate::credentials::{PodPullSecrets, PullSecrets, PullSecretsError};
use crate::failures::BackoffLimits;
use crate::manager::Parts;
use crate::metrics::Metrics;
use crate::node_credentials::NodeConfigPaths;
use crate::providers::CredentialProviders;
use crate::pull_manager::{PullManager, VerificationPolicy};
use crate::puller::PullLimits;

mod loops;
mod upstream;

const MIN_AGE: Duration = Duration::from_mins(2);
const HOUR: Duration = Duration::from_hours(1);

/// A node whose disk holds 1000 bytes, with images on it.
struct World {
    service: FakeImageService,
    events: Arc<Events>,
    metrics: Metrics,
    dir: tempfile::TempDir,
    gc: ImageGc<FakeImageService>,
}

#[derive(Default)]
struct Events(StdMutex<Vec<String>>);

struct NoSecrets;

impl EventRecorder for Events {
    fn record(&self, about: &ObjectReference, kind: EventKind, reason: &'static str, message: String) {
        assert_eq!((about.kind.as_deref(), about.uid.as_deref()), (Some("Node"), Some("worker")));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{} {reason} {message}", kind.as_str()));
    }
}

#[async_trait]
impl PullSecrets for NoSecrets {
    async fn for_pod(&self, _pod: &Pod) -> Result<PodPullSecrets, PullSecretsError> {
        Ok(PodPullSecrets::default())
    }
}

impl World {
    /// From 90 percent down to 80.
    fn new() -> Self {
        Self::with(GcPolicy::new(90, 80, MIN_AGE, Duration::ZERO).unwrap())
    }

    fn with(policy: GcPolicy) -> Self {
        Self::over(FakeImageService::default(), policy)
    }

    fn over(service: FakeImageService, policy: GcPolicy) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (metrics, events) = (Metrics::default(), Arc::<Events>::default());
        let images = Arc::new(ImageManager::new(Parts {
            service: Arc::new(service.clone()),
            events: Arc::<Events>::clone(&events),
            secrets: Arc::new(NoSecrets),
            node_config: NodeConfigPaths::default(),
            providers: CredentialProviders::default(),
            records: PullManager::open(dir.path(), VerificationPolicy::default(), metrics.clone()).unwrap(),
            limits: PullLimits::default(),
            backoff: BackoffLimits::default(),
            metrics: metrics.clone(),
        }));
        let name = || Some("worker".to_owned());
        let node =
            ObjectReference { kind: Some("Node".to_owned()), name: name(), uid: name(), ..ObjectReference::default() };
        service.set_disk(FakeDisk { capacity: 1000, others: 0 });
        Self { service, events, metrics, dir, gc: ImageGc::new(GcParts { images, node, policy }) }
    }

    /// Takes this much of the disk for something else.
    fn others_take(&self, others: u64) {
        self.service.set_disk(FakeDisk { capacity: 1000, others });
    }

    /// An image that nobody has used yet.
    fn image(&self, name: &str, size: u64) -> ImageId {
        self.service.preload(&format!("r.io/{name}:1"), name, size)
    }

    /// Ties an image to a pod's volume.
    async fn use_image(&self, id: &ImageId) -> Holder {
        let holder = Holder::Volume { pod: id.digest().hex().parse().unwrap(), volume: "v".parse().unwrap() };
        self.service.bind(&holder, id).await.unwrap();
        holder
    }

    async fn use_and_leave(&self, id: &ImageId) {
        let holder = self.use_image(id).await;
        self.service.release(&holder).await.unwrap();
    }

    async fn collect(&self, scope: GcScope, execution: Execution) -> GcOutcome {
        self.gc.collect(GcRequest { scope, execution }).await.unwrap()
    }

    /// One cycle of the loop: what went wrong.
    async fn cycle(&self) -> Vec<String> {
        let request = GcRequest { scope: GcScope::Policy, execution: Execution::Delete };
        let turn = self.service.turns().next().await;
        self.gc.sweep(&turn, request).await.troubles.iter().map(GcError::message).collect()
    }

    fn present(&self, ids: &[&ImageId]) -> Vec<bool> {
        ids.iter().map(|id| self.service.is_present(id)).collect()
    }

    fn take_events(&self) -> Vec<String> {
        std::mem::take(&mut self.events.0.lock().unwrap())
    }

    fn metric(&self, name: &str) -> Vec<String> {
        let mut registry = Registry::default();
        self.metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let of_name = |line: &&str| line.starts_with(name) && !line.ends_with(" 0");
        text.lines().filter(of_name).map(|line| line[name.len()..].to_owned()).collect()
    }

    fn records(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("image_manager/pulled")).unwrap().count()
    }
}

fn unavailable(message: &str) -> ImageServiceError {
    ImageServiceError::Node { message: message.to_owned() }
}

fn ids(outcome: &GcOutcome) -> Vec<(GcReason, ImageId)> {
    outcome.gone().map(|(reason, gone)| (reason, ImageId::new(gone.image.clone()))).collect()
}
