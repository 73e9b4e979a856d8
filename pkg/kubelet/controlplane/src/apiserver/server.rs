//! The door to the API server: one client that is renewed when its credentials are, and requests that end.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use kube::Client;
use kube::api::WatchEvent;
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use imagevol_base::Supervisor;
use imagevol_base::blocking;

use super::access::{Access, Built, ConnectError};
use super::fault::{RequestError, RequestFault};
use super::object::Call;

/// For an answer to come, whole: what the API server itself allows (kube-apiserver `--request-timeout`, default 1 m), and a little for the way.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(65);
/// How often files with credentials are looked at (the kubelet's `pkg/kubelet/certificate/transport.go`, `UpdateTransport`: 10 s).
const CREDENTIALS_CHECK: Duration = Duration::from_secs(10);

/// The API server. Clones share one client. Requests fail while it is away; nothing here retries.
#[derive(Clone)]
pub struct ApiServer {
    client: watch::Receiver<Client>,
    unauthorized: Arc<AtomicBool>,
}

/// The task that renews the client.
struct Renewer {
    access: Access,
    built: Built,
    publish: watch::Sender<Client>,
    unauthorized: Arc<AtomicBool>,
    failing: bool,
}

// === impl ApiServer ===

impl ApiServer {
    /// Reads the credentials and keeps them fresh until `supervisor` ends. Sends nothing: that the server is away is no error here.
    pub async fn connect(access: Access, supervisor: &Supervisor) -> Result<Self, ConnectError> {
        let reading = access.clone();
        let built = blocking(move || reading.build()).await?;
        let (publish, client) = watch::channel(built.client.clone());
        let unauthorized = Arc::<AtomicBool>::default();
        let renewer = Renewer { access, built, publish, unauthorized: Arc::clone(&unauthorized), failing: false };
        supervisor.spawn("apiserver-credentials", renewer.run(supervisor.token()));
        Ok(Self { client, unauthorized })
    }

    /// Resolves when there is a new client, from `seen` on; never, once there cannot be.
    pub(super) async fn renewed(seen: &mut watch::Receiver<Client>) {
        if seen.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// To be given to [`ApiServer::renewed`]: the client of now counts as seen.
    pub(super) fn clients(&self) -> watch::Receiver<Client> {
        let mut clients = self.client.clone();
        clients.mark_unchanged();
        clients
    }

    /// Sends a request and decodes the answer.
    pub(super) async fn read<T: DeserializeOwned>(&self, call: Call) -> Result<T, RequestError> {
        let Call { verb, object, request } = call;
        let client = self.client();
        // The library's own decoding would log an answer that it does not understand.
        let asking = async move {
            let text = SecretString::from(client.request_text(request).await?);
            serde_json::from_str(text.expose_secret()).map_err(|_| RequestFault::Undecodable)
        };
        self.bounded(asking).await.map_err(|source| RequestError { verb, object, source })
    }

    /// Sends a request whose answer does not matter.
    pub(super) async fn send(&self, call: Call) -> Result<(), RequestError> {
        self.read::<serde::de::IgnoredAny>(call).await.map(drop)
    }

    /// Sends a request about an object that need not exist.
    pub(super) async fn find<T: DeserializeOwned>(&self, call: Call) -> Result<Option<T>, RequestError> {
        match self.read(call).await {
            Ok(found) => Ok(Some(found)),
            Err(RequestError { source: RequestFault::NotFound, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Begins a watch. That it begins is bounded in time; how long it may be silent is for the caller to say.
    pub(super) async fn follow<K>(
        &self,
        call: Call,
    ) -> Result<BoxStream<'static, Result<WatchEvent<K>, RequestFault>>, RequestError>
    where
        K: DeserializeOwned + Clone + Send + 'static,
    {
        let Call { verb, object, request } = call;
        let client = self.client();
        let asking = async move { Ok(client.request_events::<K>(request).await?) };
        let begun = self.bounded(asking).await.map_err(|source| RequestError { verb, object, source })?;
        Ok(begun.map(|event| event.map_err(RequestFault::from)).boxed())
    }

    fn client(&self) -> Client {
        self.client.borrow().clone()
    }

    async fn bounded<T>(&self, asking: impl Future<Output = Result<T, RequestFault>>) -> Result<T, RequestFault> {
        let timeout = |_| Err(RequestFault::Timeout(REQUEST_TIMEOUT));
        let answer = tokio::time::timeout(REQUEST_TIMEOUT, asking).await.unwrap_or_else(timeout);
        if matches!(answer, Err(RequestFault::Unauthorized)) {
            self.unauthorized.store(true, Ordering::Relaxed);
        }
        answer
    }

    /// A server that is reached through `client`.
    #[cfg(test)]
    pub(super) fn of(client: Client) -> (Self, watch::Sender<Client>) {
        let (publish, client) = watch::channel(client);
        (Self { client, unauthorized: Arc::default() }, publish)
    }
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiServer")
    }
}

// === impl Renewer ===

impl Renewer {
    async fn run(mut self, cancel: CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(CREDENTIALS_CHECK) => {}
            }
            self = blocking(move || self.check()).await;
        }
    }

    /// Makes a new client if the files are others now, or if the server refused what the old one showed.
    fn check(mut self) -> Self {
        let refused = self.unauthorized.swap(false, Ordering::Relaxed);
        let changed = self.built.made_from.have_changed();
        if !refused && !changed {
            return self;
        }
        match self.access.build() {
            Ok(built) => {
                if changed {
                    tracing::info!("the credentials for the API server have changed");
                }
                self.publish.send_replace(built.client.clone());
                self.built = built;
                self.failing = false;
            }
            // Certificate and key are two files: between their changes they do not fit. The old client serves until they do.
            Err(error) if !self.failing => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the credentials for the API server cannot be read again"
                );
                self.failing = true;
            }
            Err(_) => {}
        }
        self
    }
}

#[cfg(test)]
mod tests;
