//! The task that follows the pods of this node.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use kube::api::WatchEvent;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use imagevol_api::corev1::Pod;
use imagevol_api::metav1::ListMeta;
use imagevol_api::names::{NameError, PodUid};

use super::super::fault::{RequestError, RequestFault};
use super::super::object::PODS;
use super::super::retry::{Retry, chance};
use super::super::server::ApiServer;
use super::NodePods;
use super::follow::{From, Next, fields_of, watch_params};
use super::prune::pruned;

/// After how many seconds a watch is to end at the earliest; chance adds up to as much again, so that nodes do not ask all at once
/// (client-go's reflector: 5 to 10 minutes; shorter, so that a connection that died unseen is missed for less long).
const WATCH_SECONDS: u32 = 140;
/// How much later than that a watch that still says nothing is given up.
const WATCH_GRACE: Duration = Duration::from_secs(10);
/// A watch that ends sooner has failed (client-go's reflector, `VeryShortWatchError`: 1 s).
const SHORTEST_WATCH: Duration = Duration::from_secs(1);
/// How long a watch has run that counts as a success (client-go's reflector, back-off reset: 2 m).
const GOOD_WATCH: Duration = Duration::from_mins(2);

type Events = BoxStream<'static, Result<WatchEvent<Pod>, RequestFault>>;

/// Follows the pods of one node and publishes them.
pub(super) struct Watcher {
    server: ApiServer,
    fields: String,
    pods: NodePods,
    publish: watch::Sender<Arc<NodePods>>,
    retry: Retry,
    /// The newest version that was seen.
    version: Option<String>,
}

/// How a watch ended.
#[derive(Debug)]
enum Ended {
    /// As it should: at its time, or with the connection.
    Well,
    /// At once: a server that always does so is not to be asked without a pause.
    AtOnce,
    /// With a fault.
    Badly(RequestFault),
}

#[derive(Deserialize)]
struct PodList {
    #[serde(default)]
    metadata: ListMeta,
    items: Option<Vec<Pod>>,
}

// === impl Watcher ===

impl Watcher {
    pub(super) fn new(server: ApiServer, node_name: &str, publish: watch::Sender<Arc<NodePods>>) -> Self {
        let fields = fields_of(node_name);
        Self { server, fields, pods: NodePods::default(), publish, retry: Retry::default(), version: None }
    }

    pub(super) async fn run(mut self, cancel: CancellationToken) {
        let mut next = Next::List(From::Any);
        let mut clients = self.server.clients();
        loop {
            next = tokio::select! {
                () = cancel.cancelled() => return,
                // Connections of the old client show credentials that may be good no longer.
                () = ApiServer::renewed(&mut clients) => self.resume(),
                next = self.step(next) => next,
            };
        }
    }

    /// From where to go on when nothing else is known.
    fn resume(&self) -> Next {
        Next::List(self.version.clone().map_or(From::Any, From::NotOlderThan))
    }

    /// One list, or one watch to its end, and the pause after a failure.
    async fn step(&mut self, next: Next) -> Next {
        match next {
            Next::List(from) => match self.list(&from).await {
                Ok(version) => Next::Watch(version),
                Err(error) => {
                    let next = Next::after_list(from, self.version.as_deref(), &error.source);
                    self.fail(&error).await;
                    next
                }
            },
            Next::Watch(version) => self.watch(version).await,
        }
    }

    /// Reads all pods; the version that they are of. What was known stays if any page fails.
    async fn list(&mut self, from: &From) -> Result<String, RequestError> {
        let (mut listed, mut token) = (BTreeMap::new(), None);
        loop {
            let page: PodList = self.server.read(PODS.list(&from.params(&self.fields, token))?).await?;
            listed.extend(page.items.into_iter().flatten().filter_map(known));
            token = page.metadata.continue_.filter(|token| !token.is_empty());
            if token.is_some() {
                continue;
            }
            let version = page.metadata.resource_version.filter(|version| !version.is_empty());
            let unversioned =
                || RequestError { verb: "list", object: "pods".to_owned(), source: RequestFault::Undecodable };
            let version = version.ok_or_else(unversioned)?;
            self.version = Some(version.clone());
            let now = Instant::now();
            self.change(|pods| pods.replace(listed, now));
            return Ok(version);
        }
    }

    async fn watch(&mut self, version: String) -> Next {
        let seconds = WATCH_SECONDS.saturating_add(WATCH_SECONDS * u32::from(chance()) / 256);
        let followed = match PODS.watch(&watch_params(&self.fields, seconds), &version) {
            Ok(call) => self.server.follow(call).await,
            Err(error) => Err(error),
        };
        let events = match followed {
            Ok(events) => events,
            Err(error) => {
                let next = Next::after_watch(&version, &error.source);
                self.fail(&error).await;
                return next;
            }
        };
        let began = Instant::now();
        self.live(began);
        let ended = self.follow(events, Duration::from_secs(seconds.into()).saturating_add(WATCH_GRACE)).await;
        if began.elapsed() >= GOOD_WATCH {
            self.retry.reset();
        }
        self.after(ended).await
    }

    /// Takes events until the watch ends.
    async fn follow(&mut self, mut events: Events, patience: Duration) -> Ended {
        let began = Instant::now();
        loop {
            let event = match tokio::time::timeout(patience, events.next()).await {
                Err(_) => return Ended::Badly(RequestFault::Timeout(patience)),
                Ok(None) if began.elapsed() < SHORTEST_WATCH => return Ended::AtOnce,
                Ok(None) => return Ended::Well,
                Ok(Some(Err(fault))) => return Ended::Badly(fault),
                Ok(Some(Ok(event))) => event,
            };
            if let Err(fault) = self.take(event) {
                return Ended::Badly(fault);
            }
        }
    }

    fn take(&mut self, event: WatchEvent<Pod>) -> Result<(), RequestFault> {
        match event {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                self.advance(pod.metadata.resource_version.clone())?;
                if let Some((uid, pod)) = known(pod) {
                    self.change(|pods| pods.apply(uid, pod));
                }
            }
            WatchEvent::Deleted(pod) => {
                self.advance(pod.metadata.resource_version.clone())?;
                if let Some((uid, _)) = known(pod) {
                    self.change(|pods| pods.depart(&uid, Instant::now()));
                }
            }
            WatchEvent::Bookmark(mark) => self.advance(Some(mark.metadata.resource_version))?,
            WatchEvent::Error(status) => return Err(RequestFault::of_status(&status)),
        }
        self.retry.reset();
        Ok(())
    }

    fn advance(&mut self, version: Option<String>) -> Result<(), RequestFault> {
        self.version = Some(version.filter(|version| !version.is_empty()).ok_or(RequestFault::Undecodable)?);
        Ok(())
    }

    async fn after(&mut self, ended: Ended) -> Next {
        let version = self.version.clone().unwrap_or_default();
        let fault = match ended {
            Ended::Well => return Next::Watch(version),
            Ended::AtOnce => RequestFault::Unreachable("the watch ended at once".into()),
            Ended::Badly(fault) => fault,
        };
        let next = Next::after_watch(&version, &fault);
        self.fail(&RequestError { verb: "watch", object: "pods".to_owned(), source: fault }).await;
        next
    }

    /// Shows that the set is no longer fresh, and waits a while.
    async fn fail(&mut self, error: &RequestError) {
        self.report(error);
        self.change(|pods| pods.break_off(Instant::now()));
        tokio::time::sleep(self.retry.after_failure(chance())).await;
    }

    /// Once for each time that the API server is away.
    fn report(&self, error: &(dyn Error + 'static)) {
        let NodePods { synced, stale_since, .. } = &self.pods;
        if stale_since.is_none() {
            tracing::warn!(error, synced, "the pods of this node cannot be followed: the last known ones stay");
        } else {
            tracing::debug!(error, "the pods of this node still cannot be followed");
        }
    }

    fn live(&mut self, now: Instant) {
        if let Some(since) = self.pods.stale_since {
            let seconds = now.saturating_duration_since(since).as_secs();
            tracing::info!(seconds, "the pods of this node are followed again");
        }
        self.change(|pods| pods.begin(now));
    }

    /// Changes the set, and publishes it if `change` says that it matters.
    fn change(&mut self, change: impl FnOnce(&mut NodePods) -> bool) {
        if change(&mut self.pods) {
            self.publish.send_replace(Arc::new(self.pods.clone()));
        }
    }
}

/// What is kept of a pod; `None` if its UID could not name a directory: no kubelet would run it.
fn known(pod: Pod) -> Option<(PodUid, Pod)> {
    let uid: Result<PodUid, NameError> = pod.metadata.uid.as_deref().unwrap_or_default().parse();
    let uid = uid.inspect_err(|error| tracing::warn!(%error, "a pod of the API server is passed over")).ok()?;
    Some((uid, pruned(pod)))
}
