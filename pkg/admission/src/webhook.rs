//! The webhook: a server that answers the API server's reviews, under a certificate that it makes, renews and has
//! trusted by itself.

mod certificate;
mod cluster;
mod keeper;
mod rotation;
mod server;
mod serving;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use imagevol_base::Supervisor;
use imagevol_controlplane::WallClock;
use imagevol_controlplane::apiserver::{Access, ApiServer, ConnectError};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use self::certificate::{Names, Pair};
use self::cluster::Objects;
use self::keeper::Keeper;
use self::server::Server;
use self::serving::{Serving, tls};

pub use self::certificate::CertificateError;

/// The webhook's settings.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The Service by which the API server reaches it.
    pub service: String,
    /// The namespace of the Service and of the Secret.
    pub namespace: String,
    /// The Secret of the certificate, which is there and may be empty; all replicas share it.
    pub secret: String,
    /// The MutatingWebhookConfiguration whose `caBundle` it keeps.
    pub configuration: String,
    /// Names and addresses beside the Service's, for an API server that reaches it by URL.
    pub hostnames: Vec<String>,
    /// The kubeconfig; in the cluster's own way when absent.
    pub kubeconfig: Option<PathBuf>,
    /// How long it answers after it was told to stop: API servers go on for a moment to ask whom they know.
    pub drain: Duration,
}

/// Why the webhook does not start.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The API server's address or credentials cannot be used.
    #[error("cannot use the API server")]
    Connect(#[from] ConnectError),
    /// Nobody can listen there.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A name is none, or no certificate can be made.
    #[error("cannot make a certificate")]
    Certificate(#[from] CertificateError),
    /// No TLS server can be made.
    #[error("cannot serve TLS")]
    Tls(#[from] rustls::Error),
}

// === impl Options ===

impl Options {
    /// Where it listens when nothing else is said: any address, for a pod has one that nobody knows before.
    pub const LISTEN: &str = "0.0.0.0:9443";
    /// The Service of the manifests.
    pub const SERVICE: &str = "imagevol-webhook";
    /// The namespace of the manifests.
    pub const NAMESPACE: &str = "imagevol-system";
    /// The Secret of the manifests.
    pub const SECRET: &str = "imagevol-webhook-tls";
    /// The configuration of the manifests.
    pub const CONFIGURATION: &str = "translate.imagevol.dev";
    /// Endpoints and API servers follow a pod that is being deleted within a second or two.
    pub const DRAIN: Duration = Duration::from_secs(5);

    /// Whom the API server wants to see: `<service>.<namespace>.svc` (k8s.io/apiserver, `pkg/util/webhook/client.go`).
    fn names(&self) -> Result<Names, CertificateError> {
        let service = format!("{}.{}.svc", self.service, self.namespace);
        Names::parse(std::iter::once(service).chain(self.hostnames.iter().cloned()))
    }
}

/// Starts the webhook and says where it listens. It ends with `supervisor`, [`Options::drain`] after it was told to.
///
/// An API server that is away is waited for: `/readyz` says no until the certificate is trusted.
pub async fn run(options: Options, supervisor: &Supervisor) -> Result<SocketAddr, WebhookError> {
    let (names, clock) = (options.names()?, WallClock::system());
    // Trusted by nobody, and replaced before anybody asks but the kubelet, whose probes trust everybody.
    let serving = Arc::new(Serving::new(&Pair::make(&names, clock.now())?)?);
    let acceptor = TlsAcceptor::from(Arc::new(tls(Arc::clone(&serving))?));
    let unusable = |source| WebhookError::Listen { address: options.listen, source };
    let listener = TcpListener::bind(options.listen).await.map_err(unusable)?;
    let address = listener.local_addr().map_err(unusable)?;
    let server = ApiServer::connect(Access::from(options.kubeconfig), supervisor).await?;
    let objects =
        Objects { server, namespace: options.namespace, secret: options.secret, configuration: options.configuration };
    let ready = Arc::new(AtomicBool::new(false));
    let keeper = Keeper::new(objects, names, serving);
    supervisor.spawn("webhook certificate", keeper.run(clock, Arc::clone(&ready), supervisor.clone()));
    let (stopping, stopped) = (supervisor.token(), CancellationToken::new());
    let server = Arc::new(Server::new(ready, stopping));
    supervisor.spawn("webhook", server::listen(listener, acceptor, server, stopped.clone(), supervisor.clone()));
    supervisor.spawn("webhook drain", drain(supervisor.clone(), options.drain, stopped));
    tracing::info!(%address, "the webhook listens");
    Ok(address)
}

async fn drain(supervisor: Supervisor, time: Duration, stopped: CancellationToken) {
    supervisor.cancelled().await;
    tokio::time::sleep(time).await;
    stopped.cancel();
}
