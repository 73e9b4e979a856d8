//! An API server in the test's process: objects of any kind in memory, list and watch as Kubernetes has them, and faults on command.
//!
//! It is a table of JSON objects by path. It knows what clients of every kind rely on (resource versions, bookmarks, expired versions, pages, conflicts,
//! merge patches, terminating namespaces) and nothing of what single kinds mean: it does not validate or default anything.
//!
//! ```no_run
//! # async fn example() {
//! use imagevol_test_support::apiserver::{ApiFault, FakeApiServer};
//! use serde_json::json;
//!
//! let server = FakeApiServer::start().await;
//! server.put("/api/v1/namespaces/a/pods", json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n"}}));
//! server.fail(2, "GET /api/v1/pods", ApiFault::status(503));
//! let kubeconfig = server.kubeconfig();
//! # }
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a fixture that cannot be made fails the test that wants it"
)]

mod patch;
mod serve;
mod store;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::combinators::BoxBody;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use imagevol_base::Supervisor;

pub use crate::registry::Gate;
use store::Store;

/// How long a stop waits for connections to end; they end at once when asked.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// The body of an answer.
pub type Body = BoxBody<Bytes, io::Error>;

/// What goes wrong with one request.
#[derive(Debug, Clone)]
pub enum ApiFault {
    /// This answer: a `metav1.Status` of this code and reason.
    Status {
        /// HTTP code.
        code: u16,
        /// As Kubernetes names it; may be empty.
        reason: &'static str,
    },
    /// This answer, word for word: of a proxy, for example.
    Answer {
        /// HTTP code.
        code: u16,
        /// The body.
        body: String,
    },
    /// The connection ends without an answer. What the request asked for is not done.
    Hangup,
    /// The same, but it is done.
    HangupAfter,
    /// The answer does not come before the gate is opened.
    Hold(Gate),
    /// A list breaks off in the middle of its bytes.
    Truncate,
    /// A watch begins, and this line comes first.
    WatchLine(String),
    /// A watch begins, and ends at once.
    WatchEnds,
}

/// A request as the server saw it.
#[derive(Debug, Clone)]
pub struct ApiRequest {
    /// `GET`, `POST`, ...
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// The `User-Agent` header.
    pub user_agent: Option<String>,
    /// The body, if it is JSON.
    pub body: Option<Value>,
    /// The code of the answer; 0 for none.
    pub code: u16,
}

/// A running server, or one that is called in the process. Clones share it.
#[derive(Clone)]
pub struct FakeApiServer {
    shared: Arc<Shared>,
}

struct Shared {
    store: Mutex<Store>,
    script: Mutex<Script>,
    address: Option<SocketAddr>,
    running: Mutex<Supervisor>,
}

#[derive(Default)]
struct Script {
    faults: Vec<(usize, String, ApiFault)>,
    requests: Vec<ApiRequest>,
    token: Option<String>,
}

// === impl ApiFault ===

impl ApiFault {
    /// A failure of the server's.
    pub const fn status(code: u16) -> Self {
        Self::Status { code, reason: "" }
    }

    /// A watch is told that its version is forgotten.
    pub fn gone() -> Self {
        Self::WatchLine(expired_line())
    }
}

// === impl FakeApiServer ===

impl FakeApiServer {
    /// A server without a port, to be called through [`FakeApiServer::answer`]: it takes no time, so tests can pause theirs.
    pub fn in_process() -> Self {
        Self::at(None)
    }

    /// A server on plain HTTP, on a free port of `127.0.0.1`.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let server = Self::at(Some(listener.local_addr().unwrap()));
        server.serve(listener);
        server
    }

    fn at(address: Option<SocketAddr>) -> Self {
        let running = Mutex::new(Supervisor::new("fake-apiserver"));
        let shared = Shared { store: Mutex::default(), script: Mutex::default(), address, running };
        Self { shared: shared.into() }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.shared.address.unwrap())
    }

    /// A kubeconfig for this server, without credentials.
    pub fn kubeconfig(&self) -> String {
        self.kubeconfig_with("{}")
    }

    /// A kubeconfig for this server; `user` is the user's entry, as JSON.
    pub fn kubeconfig_with(&self, user: &str) -> String {
        let url = self.url();
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: s, cluster: {{server: \"{url}\"}}}}]\n\
             contexts: [{{name: c, context: {{cluster: s, user: u}}}}]\nusers: [{{name: u, user: {user}}}]\n"
        )
    }

    /// From now on requests without this bearer token are answered with 401.
    pub fn require_token(&self, token: &str) {
        self.script().token = Some(token.to_owned());
    }

    /// Puts an object into a collection, as new or in place of another of its name; the object as it is stored.
    pub fn put(&self, collection: &str, object: Value) -> Value {
        self.store().put(collection, object)
    }

    /// Changes an object by a merge patch; it must be there.
    pub fn merge(&self, collection: &str, name: &str, changes: &Value) -> Value {
        let mut store = self.store();
        let mut object = store.get(collection, name).unwrap();
        patch::merge(&mut object, changes);
        store.put(collection, object)
    }

    /// Removes an object; whether it was there.
    pub fn remove(&self, collection: &str, name: &str) -> bool {
        self.store().remove(collection, name)
    }

    /// An object as it is.
    pub fn get(&self, collection: &str, name: &str) -> Option<Value> {
        self.store().get(collection, name)
    }

    /// All objects of a collection of a namespace, or, without `/namespaces/NAME` in its path, of all.
    pub fn list(&self, collection: &str) -> Vec<Value> {
        self.store().list(collection)
    }

    /// Creation in this namespace is refused from now on.
    pub fn terminate_namespace(&self, namespace: &str) {
        self.store().terminating.insert(namespace.to_owned());
    }

    /// Lists come in pages of this many objects, whatever the limit that was asked for.
    pub fn set_page(&self, objects: usize) {
        self.store().page = Some(objects);
    }

    /// Forgets what happened up to now: watches from earlier versions, and pages of earlier lists, are expired.
    pub fn compact(&self) {
        self.store().compact();
    }

    /// Tells all watches the version of now.
    pub fn bookmark(&self) {
        self.store().bookmark();
    }

    /// Ends all watches, as at their time or with the process; how many there were.
    pub fn cut_watches(&self) -> usize {
        self.store().cut_watches()
    }

    /// How many watches run.
    pub fn watches(&self) -> usize {
        self.store().watches()
    }

    /// The next `times` requests whose method, path and query begin with or contain `part` go wrong.
    pub fn fail(&self, times: usize, part: &str, fault: ApiFault) {
        self.script().faults.push((times, part.to_owned(), fault));
    }

    /// Nothing goes wrong any more.
    pub fn heal(&self) {
        self.script().faults.clear();
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<ApiRequest> {
        self.script().requests.clone()
    }

    /// How many requests so far have `part` in their method, path and query.
    pub fn count(&self, part: &str) -> usize {
        let target = |request: &&ApiRequest| format!("{} {}", request.method, request.target).contains(part);
        self.script().requests.iter().filter(target).count()
    }

    /// Answers a request; an error means that the connection ends.
    pub async fn answer(&self, request: http::Request<Bytes>) -> io::Result<http::Response<Body>> {
        serve::answer(self, request).await
    }

    /// Closes the port and every connection; objects stay.
    pub async fn stop(&self) {
        let running = self.running().clone();
        self.cut_watches();
        assert!(running.shut_down(STOP_GRACE).await, "connections of the fake API server did not end");
    }

    /// Listens again on the same port after [`FakeApiServer::stop`].
    pub async fn start_again(&self) {
        let listener = TcpListener::bind(self.shared.address.unwrap()).await.unwrap();
        *self.running() = Supervisor::new("fake-apiserver");
        self.serve(listener);
    }

    /// The fault that the next request of this kind meets.
    fn meet(&self, target: &str) -> Option<ApiFault> {
        let mut script = self.script();
        let met = script.faults.iter().position(|(_, part, _)| target.contains(part))?;
        script.faults[met].0 -= 1;
        let fault = script.faults[met].2.clone();
        if script.faults[met].0 == 0 {
            script.faults.remove(met);
        }
        Some(fault)
    }

    fn serve(&self, listener: TcpListener) {
        let (supervisor, server) = (self.running().clone(), self.clone());
        let (token, connections) = (supervisor.token(), supervisor.clone());
        let accepting = async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (token, server) = (connections.token(), server.clone());
                connections.spawn("connection", async move {
                    tokio::select! {
                        () = token.cancelled() => {}
                        () = server.serve_connection(stream) => {}
                    }
                });
            }
        };
        supervisor.spawn("accept", async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = accepting => {}
            }
        });
    }

    async fn serve_connection(self, stream: TcpStream) {
        let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let server = self.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
                server.answer(http::Request::from_parts(parts, body)).await
            }
        });
        let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        // Broken connections are wanted.
        drop(served);
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.shared.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.shared.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, Supervisor> {
        self.shared.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// With what a watch ends that wants to know what is forgotten.
fn expired_line() -> String {
    let status = json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"});
    json!({"type": "ERROR", "object": status}).to_string()
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).cancel();
    }
}

impl std::fmt::Debug for FakeApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeApiServer").field("address", &self.shared.address).finish_non_exhaustive()
    }
}
