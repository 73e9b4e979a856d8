use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use imagevol_api::core::pod_ref;
use imagevol_api::metav1::ObjectMeta;
use imagevol_test_support::image_service::{Call, FakeImageService};

use super::*;
use crate::credentials::{PodPullSecrets, PullSecret, PullSecretKind, PullSecretsError};
use crate::keyring::SecretCoordinates;
use crate::pull_manager::VerificationPolicy;
use crate::puller::{ParallelPulls, PullRate};

mod access;
mod claims;
mod concurrency;
mod decisions;
mod failing;
mod matrix;
mod node_pull;

const IMAGE: &str = "localhost:5000/data:1";
const SECOND: Duration = Duration::from_secs(1);

/// A node: image service, records on disk, and what its pods' owners hear.
struct World {
    service: FakeImageService,
    events: Arc<Events>,
    secrets: Arc<Secrets>,
    /// What doors show for pods, by UID.
    claims: Mutex<HashMap<String, Claims>>,
    /// What they want it for.
    platform: Mutex<Option<Platform>>,
    metrics: Metrics,
    dir: tempfile::TempDir,
    manager: ImageManager<FakeImageService>,
}

#[derive(Default)]
struct Events(Mutex<Vec<String>>);

/// Pull secrets by the pod's UID; a pod that is not in the map has none.
#[derive(Default)]
struct Secrets {
    pods: Mutex<HashMap<String, PodPullSecrets>>,
    fail: Mutex<bool>,
}

#[derive(Default)]
struct Settings {
    limits: PullLimits,
    backoff: BackoffLimits,
    policy: VerificationPolicy,
    providers: CredentialProviders,
}

impl EventRecorder for Events {
    fn record(&self, about: &ObjectReference, kind: EventKind, reason: &'static str, message: String) {
        assert_eq!((about.kind.as_deref(), &about.field_path), (Some("Pod"), &None));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{} {reason} {message}", kind.as_str()));
    }
}

#[async_trait]
impl PullSecrets for Secrets {
    async fn for_pod(&self, pod: &Pod) -> Result<PodPullSecrets, PullSecretsError> {
        if *self.fail.lock().unwrap() {
            return Err(PullSecretsError { source: "API server is away".into() });
        }
        let uid = pod.metadata.uid.clone().unwrap();
        Ok(self.pods.lock().unwrap().get(&uid).cloned().unwrap_or_default())
    }
}

impl World {
    fn new() -> Self {
        Self::with(Settings::default())
    }

    fn with(settings: Settings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (service, metrics) = (FakeImageService::default(), Metrics::default());
        let (events, secrets) = (Arc::<Events>::default(), Arc::<Secrets>::default());
        let node_config = NodeConfigPaths { config_json_dirs: vec![dir.path().to_owned()], dockercfg_dirs: vec![] };
        let manager = ImageManager::new(Parts {
            service: Arc::new(service.clone()),
            events: Arc::<Events>::clone(&events),
            secrets: Arc::<Secrets>::clone(&secrets),
            node_config,
            providers: settings.providers,
            records: PullManager::open(dir.path(), settings.policy, metrics.clone()).unwrap(),
            limits: settings.limits,
            backoff: settings.backoff,
            metrics: metrics.clone(),
        });
        Self { service, events, secrets, claims: Mutex::default(), platform: Mutex::default(), metrics, dir, manager }
    }

    /// Gives pods of this UID a secret in namespace `namespace` with one user for `localhost:5000`.
    fn give_secret(&self, pod: &str, namespace: &str, user: &str) {
        let json = format!(r#"{{"auths":{{"localhost:5000":{{"username":"{user}","password":"p"}}}}}}"#);
        self.give_data(pod, namespace, user, &json);
    }

    fn give_data(&self, pod: &str, namespace: &str, name: &str, json: &str) {
        let coordinates = SecretCoordinates {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: format!("uid-{namespace}-{name}"),
        };
        let data = json.as_bytes().to_vec().into();
        let secret = PullSecret { coordinates, kind: PullSecretKind::DockerConfigJson, data };
        self.secrets.pods.lock().unwrap().entry(pod.to_owned()).or_default().found.push(secret);
    }

    async fn ensure(&self, pod: &str, image: &str, policy: PullPolicy) -> Result<ImageId, ImageError> {
        self.ensure_volume(pod, "volume", image, policy).await
    }

    async fn ensure_volume(
        &self,
        pod: &str,
        volume: &str,
        image: &str,
        policy: PullPolicy,
    ) -> Result<ImageId, ImageError> {
        let metadata = ObjectMeta {
            name: Some("pod".to_owned()),
            uid: Some(pod.to_owned()),
            annotations: Some(BTreeMap::from([("note".to_owned(), "yes".to_owned())])),
            ..ObjectMeta::default()
        };
        let about = Arc::new(Pod { metadata, ..Pod::default() });
        let platform = self.platform.lock().unwrap().clone();
        let claims = self.claims.lock().unwrap().get(pod).cloned().unwrap_or_default();
        let request = EnsureImage {
            pod: &about,
            holder: holder(pod, volume),
            reference: image,
            platform: platform.as_ref(),
            policy,
            about: &pod_ref(&about),
            claims: &claims,
            progress: &Progress::default(),
        };
        self.manager.ensure_image_exists(request).await
    }

    fn take_events(&self) -> Vec<String> {
        std::mem::take(&mut self.events.0.lock().unwrap())
    }

    fn files(&self, folder: &str) -> usize {
        std::fs::read_dir(self.dir.path().join("image_manager").join(folder)).unwrap().count()
    }

    /// The lines of the metrics that have `name` in them, without zeros.
    fn metric(&self, name: &str) -> Vec<String> {
        let mut registry = prometheus_client::registry::Registry::default();
        self.metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let wanted = |line: &&str| line.starts_with(name) && !line.ends_with(" 0");
        text.lines().filter(wanted).map(|line| line[name.len()..].to_owned()).collect()
    }
}

fn holder(pod: &str, volume: &str) -> Holder {
    Holder::Volume { pod: pod.parse().unwrap(), volume: volume.parse().unwrap() }
}

fn status(image: &str) -> Call {
    Call::Status(image.to_owned())
}

fn pull(image: &str) -> Call {
    Call::Pull(image.to_owned(), None)
}

fn pull_as(image: &str, user: &str) -> Call {
    Call::Pull(image.to_owned(), Some(user.to_owned()))
}

fn unavailable(message: &str) -> ImageServiceError {
    ImageServiceError::Unavailable { message: message.to_owned() }
}

/// Waits for what other tasks do; time does not move meanwhile.
async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}
