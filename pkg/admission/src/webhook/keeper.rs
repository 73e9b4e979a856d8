//! Keeps the certificate: reads what the replicas share, renews it when it is due, serves it, and has it trusted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use imagevol_base::Supervisor;
use imagevol_controlplane::WallClock;
use imagevol_controlplane::apiserver::webhook::Replaced;
use jiff::Timestamp;
use tokio::time::Instant;

use super::certificate::{CertificateError, Health, Names};
use super::cluster::{BoxError, Cluster};
use super::rotation::{Keys, Step};
use super::serving::Serving;

/// How often the shared state is looked at: two small requests, and a tenth of what a renewal waits for all replicas.
const PERIOD: Duration = Duration::from_mins(1);
/// After a failure; nothing depends on it but the first start and the end of an outage.
const RETRY: Duration = Duration::from_secs(10);
/// After somebody else was faster.
const CONFLICT_RETRY: Duration = Duration::from_secs(1);

/// What stands between the webhook and its certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeeperError {
    #[error("cannot read the Secret of the certificate")]
    ReadSecret(#[source] BoxError),
    #[error("cannot write the Secret of the certificate")]
    WriteSecret(#[source] BoxError),
    #[error("there is no Secret for the certificate: it comes with the manifests, empty, and is never made here")]
    NoSecret,
    #[error("cannot read the webhook's configuration")]
    ReadConfiguration(#[source] BoxError),
    #[error("cannot write caBundle into the webhook's configuration")]
    WriteConfiguration(#[source] BoxError),
    #[error("there is no MutatingWebhookConfiguration of ours")]
    NoConfiguration,
    #[error("the certificate is unusable")]
    Certificate(#[from] CertificateError),
}

/// How far one look went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Looked {
    /// The certificate is served, and was trusted when it was looked.
    Settled,
    /// Something was written: look again.
    Changed,
}

/// The one who keeps it, in each replica. All do the same, and whoever is first does it.
#[derive(Debug)]
pub(super) struct Keeper<C> {
    pub(super) cluster: C,
    pub(super) names: Names,
    pub(super) serving: Arc<Serving>,
    /// The authority that is to come, and since when the API server has been told to trust it.
    trusted: Option<(String, Instant)>,
}

// === impl Keeper ===

impl<C: Cluster> Keeper<C> {
    pub(super) fn new(cluster: C, names: Names, serving: Arc<Serving>) -> Self {
        Self { cluster, names, serving, trusted: None }
    }

    /// Looks until the program ends. `ready` is set by the first look that found everything in place.
    pub(super) async fn run(mut self, clock: WallClock, ready: Arc<AtomicBool>, supervisor: Supervisor) {
        loop {
            let wait = match self.look(clock.now()).await {
                Ok(Looked::Settled) => {
                    ready.store(true, Ordering::Relaxed);
                    PERIOD
                }
                Ok(Looked::Changed) => CONFLICT_RETRY,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the certificate cannot be kept; trying again"
                    );
                    RETRY
                }
            };
            tokio::select! {
                () = supervisor.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// One look, and at most one step. A kill between two writes leaves what the next look, of any replica, goes on
    /// from: the Secret is written first, `caBundle` follows it, and nothing is served that is not in the Secret.
    pub(super) async fn look(&mut self, now: Timestamp) -> Result<Looked, KeeperError> {
        let mut secret = self.cluster.secret().await.map_err(KeeperError::ReadSecret)?.ok_or(KeeperError::NoSecret)?;
        let keys = Keys::read(&secret.data);
        let facts = keys.facts(&self.names, now, self.next_trusted(&keys));
        if let Some(Health::Unusable(error)) = &facts.serving {
            tracing::warn!(error = error as &dyn std::error::Error, "the certificate of the Secret is unusable");
        }
        let step = Step::decide(&facts);
        let keys = keys.after(step, &self.names, now)?;
        if step != Step::Keep {
            keys.write(&mut secret.data);
            if self.cluster.replace_secret(&secret).await.map_err(KeeperError::WriteSecret)? == Replaced::Conflict {
                return Ok(Looked::Changed);
            }
            tracing::info!(?step, "the certificate's Secret is written");
        }
        if let Some(serving) = &keys.serving {
            self.serving.serve(serving)?;
        }
        self.publish(&keys).await
    }

    /// Has the API server trust what is served, what is to come and what went.
    async fn publish(&mut self, keys: &Keys) -> Result<Looked, KeeperError> {
        let wanted = keys.bundle();
        let bundles = self.cluster.ca_bundles().await.map_err(KeeperError::ReadConfiguration)?;
        if bundles.ok_or(KeeperError::NoConfiguration)?.iter().all(|bundle| *bundle == wanted) {
            self.remember(keys);
            return Ok(Looked::Settled);
        }
        self.trusted = None;
        let replaced = self.cluster.set_ca_bundle(&wanted).await.map_err(KeeperError::WriteConfiguration)?;
        tracing::info!(?replaced, "caBundle is written");
        Ok(Looked::Changed)
    }

    fn remember(&mut self, keys: &Keys) {
        let authority = keys.next.as_ref().map(|next| &next.authority);
        let known = self.trusted.take().filter(|(known, _)| Some(known) == authority);
        self.trusted = known.or_else(|| authority.map(|authority| (authority.clone(), Instant::now())));
    }

    fn next_trusted(&self, keys: &Keys) -> Option<Duration> {
        let (authority, since) = self.trusted.as_ref()?;
        keys.next.as_ref().filter(|next| next.authority == *authority).map(|_| since.elapsed())
    }
}

#[cfg(test)]
mod tests;
