//! A registry in the test's process, on loopback, that serves from memory and misbehaves on command.
//!
//! ```no_run
//! # async fn example() {
//! use imagevol_test_support::image::{ImageBuilder, LayerBuilder};
//! use imagevol_test_support::registry::{FakeRegistry, Fault};
//!
//! let registry = FakeRegistry::start().await;
//! let image = ImageBuilder::new().layer(LayerBuilder::new().file("a", "1").gzip()).build();
//! let reference = registry.push("team/data", "v1", &image);
//! registry.faults().times(2, "/blobs/", Fault::status(503));
//! # }
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a fixture that cannot be made fails the test that wants it"
)]

mod auth;
mod content;
mod faults;
mod serve;
mod state;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, Method};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use imagevol_api::oci::Digest;
use imagevol_base::Supervisor;

use crate::image::{Image, Index};

pub use auth::AuthMode;
pub use content::Content;
pub use faults::{Fault, Faults, Gate};
use state::{Manifest, State};

/// How long a stop waits for connections to end; they end at once when asked.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// One request as the registry saw it.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET`, `HEAD`, `POST`.
    pub method: Method,
    /// The path, without the query.
    pub path: String,
    /// What follows the `?`, or nothing.
    pub query: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The body, for `POST`.
    pub body: String,
    /// The status answered.
    pub status: u16,
}

/// How to start a [`FakeRegistry`].
#[derive(Debug)]
pub struct Builder {
    address: SocketAddr,
    tls: bool,
    auth: AuthMode,
}

/// A running registry; it ends with this value.
pub struct FakeRegistry {
    address: SocketAddr,
    state: Arc<State>,
    tls: Option<Tls>,
    running: Mutex<Supervisor>,
}

struct Tls {
    acceptor: TlsAcceptor,
    ca_pem: String,
}

// === impl Builder ===

impl Builder {
    /// Serves HTTPS, with a certificate of its own for `localhost`, `127.0.0.1` and `::1`.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Where to listen; port 0 chooses a free one.
    #[must_use]
    pub fn address(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    /// What callers must show.
    #[must_use]
    pub fn auth(mut self, auth: AuthMode) -> Self {
        self.auth = auth;
        self
    }

    /// Listens and serves.
    pub async fn start(self) -> FakeRegistry {
        let tls = self.tls.then(Tls::new);
        let listener = TcpListener::bind(self.address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::new(base_url(tls.is_some(), address), self.auth));
        let registry = FakeRegistry { address, state, tls, running: Mutex::new(Supervisor::new("fake-registry")) };
        registry.serve(listener);
        registry
    }
}

// === impl FakeRegistry ===

impl FakeRegistry {
    /// An open registry on plain HTTP, on a free port of `127.0.0.1`.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// Other ways to start.
    pub fn builder() -> Builder {
        Builder { address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), tls: false, auth: AuthMode::Open }
    }

    /// `127.0.0.1:PORT`: what stands before the first `/` of a reference.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// `http://127.0.0.1:PORT`, or `https://…`.
    pub fn url(&self) -> String {
        base_url(self.tls.is_some(), self.address)
    }

    /// The certificate to trust, in PEM; empty on plain HTTP.
    pub fn ca_pem(&self) -> &str {
        self.tls.as_ref().map_or("", |tls| &tls.ca_pem)
    }

    /// `host/repository:tag`.
    pub fn reference(&self, repository: &str, tag: &str) -> String {
        format!("{}/{repository}:{tag}", self.host())
    }

    /// `host/repository@digest`.
    pub fn reference_at(&self, repository: &str, digest: &Digest) -> String {
        format!("{}/{repository}@{digest}", self.host())
    }

    /// Stores an image under `tag`, replacing what the tag pointed at, and returns its reference.
    pub fn push(&self, repository: &str, tag: &str, image: &Image) -> String {
        self.put_image(repository, image);
        self.state.lock().tag(repository, tag, &image.digest);
        self.reference(repository, tag)
    }

    /// Stores an index with everything in it under `tag`, and returns its reference.
    pub fn push_index(&self, repository: &str, tag: &str, index: &Index) -> String {
        self.put_index(repository, index);
        self.state.lock().tag(repository, tag, &index.digest);
        self.reference(repository, tag)
    }

    /// Stores an image without a tag.
    pub fn put_image(&self, repository: &str, image: &Image) {
        let mut store = self.state.lock();
        for blob in image.blobs() {
            store.put_blob(repository, &blob.digest, Content::Bytes(blob.bytes.clone()));
        }
        store.put_manifest(repository, Manifest::new(&image.media_type, image.manifest.clone()));
    }

    /// Stores any bytes as a manifest and points `tag` at them: for hostile ones.
    pub fn put_manifest(
        &self,
        repository: &str,
        tag: &str,
        media_type: &str,
        bytes: impl Into<bytes::Bytes>,
    ) -> Digest {
        let manifest = Manifest::new(media_type, bytes.into());
        let digest = manifest.digest.clone();
        let mut store = self.state.lock();
        store.put_manifest(repository, manifest);
        store.tag(repository, tag, &digest);
        digest
    }

    /// Stores content as a blob and returns its digest; generated content is hashed without being held in memory.
    pub fn put_blob(&self, repository: &str, content: Content) -> Digest {
        let digest = content.digest();
        self.state.lock().put_blob(repository, &digest, content);
        digest
    }

    /// Forgets a tag.
    pub fn remove_tag(&self, repository: &str, tag: &str) {
        self.state.lock().remove_tag(repository, tag);
    }

    /// Forgets a blob.
    pub fn remove_blob(&self, repository: &str, digest: &Digest) {
        self.state.lock().remove_blob(repository, digest);
    }

    /// Makes a user, for basic authentication and for token requests.
    pub fn add_user(&self, name: &str, password: &str) {
        self.state.lock().auth.add_user(name, password);
    }

    /// Makes an OAuth2 refresh token of a user.
    pub fn add_identity_token(&self, token: &str, user: &str) {
        self.state.lock().auth.add_identity_token(token, user);
    }

    /// Only these users may read `repository`; others are anonymous-readable.
    pub fn protect(&self, repository: &str, users: &[&str]) {
        self.state.lock().auth.protect(repository, users);
    }

    /// Makes every token handed out so far worthless.
    pub fn revoke_tokens(&self) {
        self.state.lock().auth.revoke();
    }

    /// What misbehaves.
    pub fn faults(&self) -> &Faults {
        &self.state.faults
    }

    /// All requests so far, in the order in which they were answered.
    pub fn requests(&self) -> Vec<Request> {
        self.state.lock().log.clone()
    }

    /// Forgets the requests so far.
    pub fn clear_requests(&self) {
        self.state.lock().log.clear();
    }

    /// How many `GET`s so far had `part` in their path.
    pub fn gets(&self, part: &str) -> usize {
        let wanted = |request: &&Request| request.method == Method::GET && request.path.contains(part);
        self.state.lock().log.iter().filter(wanted).count()
    }

    /// Closes the port and every connection; what is stored stays.
    pub async fn stop(&self) {
        let running = self.running().clone();
        assert!(running.shut_down(STOP_GRACE).await, "connections of the fake registry did not end");
    }

    /// Listens again on the same port after [`FakeRegistry::stop`].
    pub async fn start_again(&self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        *self.running() = Supervisor::new("fake-registry");
        self.serve(listener);
    }

    fn put_index(&self, repository: &str, index: &Index) {
        index.images.iter().for_each(|image| self.put_image(repository, image));
        index.indexes.iter().for_each(|nested| self.put_index(repository, nested));
        self.state.lock().put_manifest(repository, Manifest::new(&index.media_type, index.manifest.clone()));
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Supervisor> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, listener: TcpListener) {
        let supervisor = self.running().clone();
        let acceptor = self.tls.as_ref().map(|tls| tls.acceptor.clone());
        let accepting = accept(listener, Arc::clone(&self.state), acceptor, supervisor.clone());
        let token = supervisor.token();
        supervisor.spawn("accept", async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = accepting => {}
            }
        });
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.running().cancel();
    }
}

impl std::fmt::Debug for FakeRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeRegistry").field("url", &self.url()).finish_non_exhaustive()
    }
}

// === impl Tls ===

impl Tls {
    fn new() -> Self {
        crate::install_crypto();
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
        let issued = rcgen::generate_simple_self_signed(names).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![issued.cert.der().clone()], key)
            .unwrap();
        Self { acceptor: TlsAcceptor::from(Arc::new(config)), ca_pem: issued.cert.pem() }
    }
}

async fn accept(listener: TcpListener, state: Arc<State>, acceptor: Option<TlsAcceptor>, supervisor: Supervisor) {
    while let Ok((stream, _)) = listener.accept().await {
        let (state, acceptor, token) = (Arc::clone(&state), acceptor.clone(), supervisor.token());
        let connection = async move {
            match acceptor {
                None => serve_connection(stream, state).await,
                Some(acceptor) => {
                    // A client that distrusts the certificate is what some tests are about.
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve_connection(stream, state).await;
                    }
                }
            }
        };
        supervisor.spawn("connection", async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = connection => {}
            }
        });
    }
}

async fn serve_connection(stream: impl AsyncRead + AsyncWrite + Unpin, state: Arc<State>) {
    let service = service_fn(|request| {
        let state = Arc::clone(&state);
        async move { serve::answer(state, request).await }
    });
    let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    // Broken connections are wanted: a truncated body ends in one.
    drop(served);
}

fn base_url(tls: bool, address: SocketAddr) -> String {
    format!("{}://{address}", if tls { "https" } else { "http" })
}

/// The error of a handler that wants the connection dropped.
#[derive(Debug)]
struct Hangup;

impl std::fmt::Display for Hangup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the fake registry hangs up")
    }
}

impl std::error::Error for Hangup {}
