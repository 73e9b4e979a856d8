//! A kubelet, as a CSI driver meets it: what it calls, with which deadlines, and what it makes of the answers.
//!
//! It keeps the real one's books (Kubernetes, pkg/kubelet/pluginmanager, pkg/volume/csi, pkg/kubelet/volumemanager): a plugin is noticed
//! when its socket appears, a volume is certain or uncertain, a failed call waits before the next. It runs no containers, and knows pods
//! only as what a test says of them. Panics where the driver has left something that the real one could not clear away.
#![expect(clippy::missing_panics_doc, reason = "every function of the double may panic, as the head says")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use imagevol_api::csi::node_client::NodeClient;
use imagevol_api::csi::{NodeGetCapabilitiesRequest, NodeGetInfoRequest};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;

mod plugins;
mod pods;
mod volumes;

pub use plugins::{PluginWatcher, Registered, RegistrationError};
pub use pods::{KubeletPod, KubeletVolume, Lifecycle};

/// Of each CSI call (pkg/volume/csi/csi_plugin.go, `csiTimeout`).
pub const CSI_TIMEOUT: Duration = Duration::from_mins(2);
/// After the first failure (goroutinemap/exponentialbackoff, `initialDurationBeforeRetry`); doubled for each further one.
const BACKOFF: Duration = Duration::from_millis(500);
/// At most (the same, `maxDurationBeforeRetry`).
const BACKOFF_MAX: Duration = Duration::from_secs(122);

/// A way to a driver's services: a socket, or the services themselves.
pub type Channel = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Status>;

/// Where a driver is.
#[derive(Clone)]
pub enum Driver {
    /// Behind a socket; each call makes a connection of its own, as the real kubelet does.
    Socket(PathBuf),
    /// In this process: for tests whose time is paused, which sockets do not know of.
    Here(Channel),
}

/// What a kubelet knows of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Perhaps mounted: to be unpublished before the pod may go.
    Uncertain,
    Mounted,
}

/// What became of starting or stopping a volume.
#[derive(Debug, Clone, Default)]
pub struct Story {
    /// When each call was made, since the first.
    pub calls: Vec<Duration>,
    /// How each call failed; the last may have succeeded.
    pub failures: Vec<Status>,
}

/// The double. Clones are the same kubelet.
#[derive(Clone)]
pub struct Kubelet {
    shared: Arc<Shared>,
}

struct Shared {
    root: PathBuf,
    driver: Driver,
    books: Mutex<BTreeMap<(String, String), Book>>,
}

/// What a kubelet keeps of one volume.
#[derive(Clone)]
struct Book {
    known: Option<Known>,
    /// One operation at a time for each volume (pkg/volume/util/nestedpendingoperations).
    turn: Arc<tokio::sync::Mutex<()>>,
    /// The pod has been deleted.
    deleted: watch::Sender<bool>,
}

// === impl Kubelet ===

#[expect(clippy::expect_used, reason = "a harness: whatever fails here fails the test that uses it")]
impl Kubelet {
    /// A kubelet with this root that has heard of a driver already.
    pub fn new(root: &Path, driver: Driver) -> Self {
        std::fs::create_dir_all(root.join("pods")).expect("make the kubelet's root");
        let shared = Shared { root: root.to_owned(), driver, books: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// The same node after a restart of the kubelet: it knows what its files tell, and is certain of nothing
    /// (pkg/kubelet/volumemanager/reconciler, `reconstruct.go`).
    #[must_use]
    pub fn restarted(&self) -> Self {
        let kubelet = Self::new(&self.shared.root, self.shared.driver.clone());
        for (pod, volume) in volumes::on_disk(&self.shared.root) {
            kubelet.set_known(&pod, &volume, Some(Known::Uncertain));
        }
        kubelet
    }

    /// The same kubelet after the driver has registered anew: what it knows of volumes stays.
    #[must_use]
    pub fn dialling(&self, driver: Driver) -> Self {
        let books = Mutex::new(self.books().clone());
        Self { shared: Arc::new(Shared { root: self.shared.root.clone(), driver, books }) }
    }

    /// The kubelet's root.
    pub fn root(&self) -> &Path {
        &self.shared.root
    }

    /// Volumes of pods that are not `living`: what a restarted kubelet finds and has to tear down, as pod UID and volume.
    pub fn orphans(&self, living: &[&KubeletPod]) -> Vec<(String, String)> {
        let books = self.books();
        let is_orphan = |(pod, _): &&(String, String)| !living.iter().any(|living| living.uid == *pod);
        books.iter().filter(|(_, book)| book.known.is_some()).map(|(key, _)| key).filter(is_orphan).cloned().collect()
    }

    /// Calls until the volume is published or its pod is deleted, with the kubelet's pauses.
    pub async fn start(&self, pod: &KubeletPod, volume: &KubeletVolume) -> Story {
        let mut deleted = self.book(&pod.uid, &volume.name).deleted.subscribe();
        let begun = Instant::now();
        let (mut story, mut pause) = (Story::default(), BACKOFF);
        while !*deleted.borrow_and_update() {
            story.calls.push(begun.elapsed());
            let Err(failure) = self.set_up(pod, volume).await else { return story };
            story.failures.push(failure);
            tokio::select! {
                _ = deleted.wait_for(|deleted| *deleted) => {}
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(BACKOFF_MAX);
        }
        story
    }

    /// Deletes the pod, as far as this volume goes: waits for a call under way, which is not cancelled, and unpublishes, with the kubelet's
    /// pauses, what may be there. After a final error there is nothing to unpublish: then the story has no call.
    pub async fn delete(&self, pod: &str, volume: &str) -> Story {
        let book = self.book(pod, volume);
        book.deleted.send_replace(true);
        let _turn = book.turn.lock().await;
        let begun = Instant::now();
        let (mut story, mut pause) = (Story::default(), BACKOFF);
        while self.book(pod, volume).known.is_some() {
            story.calls.push(begun.elapsed());
            match self.tear_down(pod, volume).await {
                Ok(()) => break,
                Err(failure) => story.failures.push(failure),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACKOFF_MAX);
        }
        self.books().remove(&(pod.to_owned(), volume.to_owned()));
        volumes::remove_pod(&self.shared.root, pod);
        story
    }

    /// Whether the volume may be mounted, so that it would be unpublished.
    pub fn is_uncertain(&self, pod: &KubeletPod, volume: &KubeletVolume) -> bool {
        self.book(&pod.uid, &volume.name).known == Some(Known::Uncertain)
    }

    /// Whether the volume is mounted.
    pub fn is_mounted(&self, pod: &KubeletPod, volume: &KubeletVolume) -> bool {
        self.book(&pod.uid, &volume.name).known == Some(Known::Mounted)
    }

    fn book(&self, pod: &str, volume: &str) -> Book {
        let new = || Book { known: None, turn: Arc::default(), deleted: watch::channel(false).0 };
        self.books().entry((pod.to_owned(), volume.to_owned())).or_insert_with(new).clone()
    }

    fn set_known(&self, pod: &str, volume: &str, known: Option<Known>) {
        drop(self.book(pod, volume));
        if let Some(book) = self.books().get_mut(&(pod.to_owned(), volume.to_owned())) {
            book.known = known;
        }
    }

    fn books(&self) -> std::sync::MutexGuard<'_, BTreeMap<(String, String), Book>> {
        self.shared.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Driver ===

impl Driver {
    /// Connects.
    pub async fn dial(&self) -> Result<Channel, Status> {
        match self {
            Self::Socket(path) => dial(path).await,
            Self::Here(channel) => Ok(channel.clone()),
        }
    }

    /// Whether the driver has a capability of its Node service; asked before each publish, as the real kubelet does.
    async fn capabilities(&self) -> Result<usize, Status> {
        let mut node = NodeClient::new(self.dial().await?);
        let answer = within(CSI_TIMEOUT, node.node_get_capabilities(NodeGetCapabilitiesRequest {})).await?;
        Ok(answer.into_inner().capabilities.len())
    }

    /// The node's name for the driver.
    pub async fn node_id(&self) -> Result<String, Status> {
        let mut node = NodeClient::new(self.dial().await?);
        Ok(within(CSI_TIMEOUT, node.node_get_info(NodeGetInfoRequest {})).await?.into_inner().node_id)
    }
}

/// Whether a failed call has ended, and left nothing (pkg/volume/csi/csi_client.go, `isFinalError`).
pub fn is_final(failure: &Status) -> bool {
    let uncertain =
        [Code::Cancelled, Code::DeadlineExceeded, Code::Unavailable, Code::ResourceExhausted, Code::Aborted];
    !uncertain.contains(&failure.code())
}

async fn dial(path: &Path) -> Result<Channel, Status> {
    let address = format!("unix://{}", path.display());
    let endpoint = Endpoint::from_shared(address).map_err(|error| Status::unavailable(error.to_string()))?;
    let channel = endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(BoxCloneSyncService::new(channel.map_err(|error| Status::from_error(error.into()))))
}

/// A call that its caller gives up.
async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let ended = tokio::time::timeout(limit, call).await;
    ended.unwrap_or_else(|_| Err(Status::deadline_exceeded("context deadline exceeded")))
}

impl std::fmt::Debug for Kubelet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubelet").field("root", &self.shared.root).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(path) => f.debug_tuple("Socket").field(path).finish(),
            Self::Here(_) => f.write_str("Here"),
        }
    }
}
