//! Pull secrets from the API server, for pods that come from there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use imagevol_api::core::static_pod::SOURCE_ANNOTATION;
use imagevol_api::corev1::{Pod, Secret};
use imagevol_base::{SingleFlight, Supervisor};
use imagevol_images::{PodPullSecrets, PullSecret, PullSecrets, PullSecretsError};

use super::fault::{RequestError, RequestFault};
use super::object::SECRETS;
use super::pods::API_SOURCE;
use super::server::ApiServer;

/// For how long a secret is not read again (kubelet `pkg/kubelet/util/manager`, `defaultTTL` of the caching manager: 1 m).
const FRESH: Duration = Duration::from_mins(1);
/// For how long one serves while the API server is away: a pull and its retries, not a revoked secret for ever.
const USABLE: Duration = Duration::from_mins(10);
/// Secrets kept: a few for each of the pods that a node may have (kubelet `maxPods`, default 110). The oldest go first.
const MAX_KEPT: usize = 256;

/// Pull secrets of all pods of a node: of those that come from the API server from there, of others from the manifests.
#[derive(Clone)]
pub struct ClusterPullSecrets {
    server: ApiServer,
    manifests: Arc<dyn PullSecrets>,
    kept: Arc<Mutex<Kept>>,
    flights: Arc<SingleFlight<Name, Lookup>>,
}

/// Pull secrets of a node that may not read those of the cluster: pods of manifests have theirs, pods of the API server show none. Never are they
/// looked up among the manifests' for those: a tenant could name the secret of a static pod.
#[derive(Clone)]
pub struct ManifestPullSecrets {
    manifests: Arc<dyn PullSecrets>,
}

/// Namespace and name.
type Name = (String, String);
/// What a lookup gave; shared among those who asked at once.
type Lookup = Result<Held, Arc<RequestError>>;

/// What is known of a secret.
#[derive(Debug, Clone)]
enum Held {
    /// There is none.
    Missing,
    /// There is one, of a type that is not for registries.
    Other,
    /// Credentials.
    Pull(Arc<PullSecret>),
}

/// What was read, and when.
#[derive(Debug, Default)]
struct Kept(HashMap<Name, (Held, Instant)>);

/// Why the secrets of a pod could not be had.
#[derive(Debug, thiserror::Error)]
enum LookupError {
    #[error(
        "imagevol may not read secrets: deploy its component pull-secrets (cluster role imagevol-node-pull-secrets), or set kubernetes.imagePullSecrets to false"
    )]
    Forbidden(#[source] Arc<RequestError>),
    #[error("a pull secret could not be read")]
    Request(#[source] Arc<RequestError>),
    #[error("the lookup was given up")]
    Stopped,
}

// === impl ClusterPullSecrets ===

impl ClusterPullSecrets {
    /// Lookups run as tasks of `supervisor`.
    pub fn new(server: ApiServer, manifests: Arc<dyn PullSecrets>, supervisor: &Supervisor) -> Self {
        let flights = SingleFlight::new(supervisor.child("apiserver-secrets"), Duration::ZERO);
        Self { server, manifests, kept: Arc::default(), flights: flights.into() }
    }

    /// As the kubelet does (`getPullSecretsForPod`): in the pod's order, empty names passed over, missing ones named, those of another type
    /// ignored. Other than there, a secret that cannot be read is an error: as anybody, a private image would be refused for good.
    async fn of_api_pod(&self, pod: &Pod) -> Result<PodPullSecrets, LookupError> {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let named = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
        let mut secrets = PodPullSecrets::default();
        for reference in named.filter(|reference| !reference.name.is_empty()) {
            match self.lookup((namespace.clone(), reference.name.clone())).await? {
                Held::Pull(secret) => secrets.found.push(secret.as_ref().clone()),
                Held::Missing => secrets.missing.push(reference.name.clone()),
                Held::Other => {}
            }
        }
        Ok(secrets)
    }

    async fn lookup(&self, name: Name) -> Result<Held, LookupError> {
        if let Some(held) = self.kept().get(&name, FRESH, Instant::now()) {
            return Ok(held);
        }
        let this = self.clone();
        let asked = name.clone();
        let looked = self.flights.run(name.clone(), move || async move { this.ask(asked).await }).await;
        match looked.ok_or(LookupError::Stopped)? {
            Ok(held) => Ok(held),
            Err(error) if matches!(error.source, RequestFault::Forbidden { .. }) => Err(LookupError::Forbidden(error)),
            Err(error) if error.is_retryable() => {
                self.kept().get(&name, USABLE, Instant::now()).ok_or(LookupError::Request(error))
            }
            Err(error) => Err(LookupError::Request(error)),
        }
    }

    async fn ask(&self, name: Name) -> Lookup {
        let held = self.server.read_secret(&name.0, &name.1).await?;
        self.kept().put(name, held.clone(), Instant::now());
        Ok(held)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl PullSecrets for ClusterPullSecrets {
    async fn for_pod(&self, pod: &Pod) -> Result<PodPullSecrets, PullSecretsError> {
        if is_of_manifest(pod) {
            return self.manifests.for_pod(pod).await;
        }
        self.of_api_pod(pod).await.map_err(|error| PullSecretsError { source: error.into() })
    }
}

impl std::fmt::Debug for ClusterPullSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterPullSecrets")
    }
}

// === impl ManifestPullSecrets ===

impl ManifestPullSecrets {
    /// The secrets of `manifests`, for pods of manifests.
    pub fn new(manifests: Arc<dyn PullSecrets>) -> Self {
        Self { manifests }
    }
}

#[async_trait]
impl PullSecrets for ManifestPullSecrets {
    async fn for_pod(&self, pod: &Pod) -> Result<PodPullSecrets, PullSecretsError> {
        if is_of_manifest(pod) { self.manifests.for_pod(pod).await } else { Ok(PodPullSecrets::default()) }
    }
}

impl std::fmt::Debug for ManifestPullSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ManifestPullSecrets")
    }
}

// === impl ApiServer ===

impl ApiServer {
    /// What is known of a secret by its name.
    async fn read_secret(&self, namespace: &str, name: &str) -> Result<Held, RequestError> {
        let call = match SECRETS.of(namespace, name).get() {
            Ok(call) => call,
            // No object can have such a name.
            Err(RequestError { source: RequestFault::Name { .. }, .. }) => return Ok(Held::Missing),
            Err(error) => return Err(error),
        };
        let found: Option<Secret> = self.find(call).await?;
        let pull = |secret| PullSecret::of(&secret).map_or(Held::Other, |secret| Held::Pull(secret.into()));
        Ok(found.map_or(Held::Missing, pull))
    }
}

// === impl Kept ===

impl Kept {
    /// What was read no longer than `age` ago.
    fn get(&self, name: &Name, age: Duration, now: Instant) -> Option<Held> {
        let (held, read) = self.0.get(name)?;
        (now.saturating_duration_since(*read) < age).then(|| held.clone())
    }

    fn put(&mut self, name: Name, held: Held, now: Instant) {
        self.0.retain(|_, (_, read)| now.saturating_duration_since(*read) < USABLE);
        self.0.insert(name, (held, now));
        while self.0.len() > MAX_KEPT {
            let Some(oldest) = self.0.iter().min_by_key(|(_, (_, read))| *read).map(|(name, _)| name.clone()) else {
                return;
            };
            self.0.remove(&oldest);
        }
    }
}

/// Whether the pod came from a manifest of this node. Of pods of the API server the annotation is ours, too: their owners' is overwritten.
fn is_of_manifest(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(SOURCE_ANNOTATION)).is_some_and(|source| source != API_SOURCE)
}

#[cfg(test)]
mod tests;
