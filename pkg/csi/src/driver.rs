//! Puts the driver together: two sockets, three services, and the order in which they come and go.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use imagevol_api::config::CSI_DRIVER;
use imagevol_api::corev1::Pod;
use imagevol_api::csi::identity_server::{self, IdentityServer};
use imagevol_api::csi::node_server::{self, NodeServer};
use imagevol_api::names::PodUid;
use imagevol_api::pluginregistration::registration_server::RegistrationServer;
use imagevol_base::Supervisor;
use imagevol_base::blocking;
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::Router;

use crate::authority::Named;
use crate::counted::Counted;
use crate::door::Door;
use crate::identity::Identity;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::publisher::Publisher;
use crate::registration::Registration;
use crate::socket::{Bound, Parent, SocketError};
use crate::sweep::Sweep;

/// Calls at a time on one connection. A kubelet makes a connection for each call (csi_client.go); others may not pile up work.
const STREAMS_MAX: u32 = 128;
/// Headers of one call.
const HEADERS_MAX: u32 = 16 * 1024;
/// Accepted connections that wait for the server.
const COMERS: usize = 16;

/// At the end, how long is waited for connections to close: calls that were held are answered at once, but a client that has said nothing
/// yet would be waited for as long as it likes.
const FAREWELL: Duration = Duration::from_secs(1);

/// Finds a living pod that is known besides what a call says of it.
pub type PodLookup = Arc<dyn Fn(&PodUid) -> Option<Arc<Pod>> + Send + Sync>;

/// What the driver is made of.
pub struct Parts {
    /// The kubelet's root: targets are below it.
    pub root_dir: PathBuf,
    /// The driver's socket. The kubelet finds it by this path.
    pub endpoint: PathBuf,
    /// The directory in which the kubelet looks for plugins.
    pub registration_dir: PathBuf,
    /// How long a publish waits for its image.
    pub publish_timeout: Duration,
    /// The node's name for the kubelet.
    pub node_id: String,
    /// The daemon's version.
    pub version: &'static str,
    /// Mounts volumes.
    pub volumes: Arc<dyn Publisher>,
    /// Pods that the API server tells of; without one it knows none.
    pub pods: PodLookup,
    /// Where calls are counted.
    pub metrics: Metrics,
}

/// Why the driver does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its socket cannot be had.
    #[error("cannot open the socket of the CSI driver")]
    Socket(#[from] SocketError),
    /// Nobody knows who may use it.
    #[error("cannot find out the user of this process")]
    Owner(#[source] io::Error),
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts")
            .field("root_dir", &self.root_dir)
            .field("endpoint", &self.endpoint)
            .field("registration_dir", &self.registration_dir)
            .field("publish_timeout", &self.publish_timeout)
            .field("node_id", &self.node_id)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// Serves the driver of a node that can mount, and registers it. It ends with `supervisor`: first the kubelet is told, then calls that
/// are held get an answer, then the socket goes.
pub async fn start(parts: Parts, supervisor: &Supervisor) -> Result<(), StartError> {
    let tasks = supervisor.child("csi");
    let owner = blocking(Door::owner).await.map_err(StartError::Owner)?;
    let endpoint = parts.endpoint.clone();
    let bound = blocking(move || Bound::new(&endpoint, Parent::Ours)).await?;
    tracing::info!(path = %parts.endpoint.display(), "listening");
    // Cancelled when the registration has gone.
    let stop = CancellationToken::new();
    tasks.spawn("sweep", sweep(&parts).run(tasks.token()));
    tasks.spawn("registration", register(&parts, owner, tasks.token(), stop.clone()));
    let (comers, door) = door(parts.endpoint.clone(), Parent::Ours, owner);
    tasks.spawn("socket", door.keep(Some(bound), stop.clone()));
    let (identity, node) = services(parts, &tasks);
    let services = server().add_service(IdentityServer::new(identity)).add_service(NodeServer::new(node));
    tasks.spawn("server", serve(services, comers, stop));
    Ok(())
}

/// The driver's services, for whoever brings a transport of their own. Calls that are held end with `supervisor`.
pub fn services(parts: Parts, supervisor: &Supervisor) -> (impl identity_server::Identity, impl node_server::Node) {
    let Parts { root_dir, node_id: id, publish_timeout: hold, volumes, pods, version, metrics, .. } = parts;
    let node = Node { root_dir, id, hold, volumes, pods, stop: supervisor.token() };
    (Counted { service: Identity { version }, metrics: metrics.clone() }, Counted { service: node, metrics })
}

fn sweep(parts: &Parts) -> Sweep {
    let (root_dir, volumes) = (parts.root_dir.clone(), Arc::clone(&parts.volumes));
    Sweep { root_dir, volumes, pods: Arc::clone(&parts.pods) }
}

/// Registers until `end`; then says so by `gone`.
fn register(
    parts: &Parts,
    owner: u32,
    end: CancellationToken,
    gone: CancellationToken,
) -> impl Future<Output = ()> + Send + 'static {
    let path = parts.registration_dir.join(format!("{CSI_DRIVER}-reg.sock"));
    let (comers, door) = door(path, Parent::Kubelets, owner);
    let registration = Registration::new(&parts.endpoint);
    async move {
        // However this ends, the driver must not outlive it.
        let _gone = gone.drop_guard();
        let retry = registration.retry(Arc::clone(&door.renew));
        let services = server().add_service(RegistrationServer::new(registration));
        let server_end = end.clone();
        tokio::select! {
            ((), ()) = async { tokio::join!(door.keep(None, end), serve(services, comers, server_end)) } => {}
            () = async { retry.await; std::future::pending().await } => {}
        }
    }
}

fn door(path: PathBuf, parent: Parent, owner: u32) -> (mpsc::Receiver<io::Result<UnixStream>>, Door) {
    let (sender, receiver) = mpsc::channel(COMERS);
    (receiver, Door { path, parent, comers: sender, renew: Arc::new(Notify::new()), owner })
}

fn server() -> Server {
    Server::builder().max_concurrent_streams(STREAMS_MAX).http2_max_header_list_size(HEADERS_MAX)
}

async fn serve(services: Router, comers: mpsc::Receiver<io::Result<UnixStream>>, stop: CancellationToken) {
    let comers = ReceiverStream::new(comers).map(|comer| comer.map(Named::new));
    let over = async {
        stop.cancelled().await;
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::select! {
        served = services.serve_with_incoming_shutdown(comers, stop.clone().cancelled_owned()) => {
            if let Err(error) = served {
                tracing::error!(%error, "a gRPC server ended");
            }
        }
        () = over => tracing::debug!("connections are still open; they end with the process"),
    }
}
