//! Talks to the daemon: HTTP/1.1 over its unix socket, one connection a request.
//!
//! Nothing that the other end sends is trusted: answers are bounded, decoded into types, and what is shown of them is escaped.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Fuse};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use imagevol_api::metav1::{Status, StatusCause};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::text;

/// Most bytes of one answer: a node's 110 pods (the kubelet's `maxPods`) with 1.5 MiB each (etcd's limit of an object) fit.
const MAX_ANSWER_BYTES: usize = 192 << 20;
/// Most bytes of one line of a stream: a progress report names each blob of an image once, in about 130 bytes.
const MAX_LINE_BYTES: usize = 4 << 20;
/// How much of an answer that nobody understands is shown.
const MAX_EXCERPT_CHARS: usize = 200;

/// The daemon at one socket.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    socket: PathBuf,
}

/// An answer that comes line by line.
pub(crate) struct Lines {
    request: String,
    body: Incoming,
    driver: Driver,
    buffer: Vec<u8>,
    /// Bytes of the buffer that hold no line end: looking at them again for each piece would take quadratic time.
    scanned: usize,
}

/// An answer that comes in pieces.
pub(crate) struct Download {
    /// Of the answer.
    pub headers: HeaderMap,
    request: String,
    body: Incoming,
    driver: Driver,
}

/// A request's body; one that fails breaks the request off.
pub(crate) type Upload = BoxBody<Bytes, io::Error>;

/// What keeps an HTTP connection going; it must be polled while anything is awaited from the connection.
type Driver = Fuse<BoxFuture<'static, hyper::Result<()>>>;

/// Why the daemon gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Nobody listens, or not to us.
    #[error("cannot connect to the imagevol daemon at {}", text::line(&socket.display().to_string()))]
    Connect {
        /// Where it should listen.
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The request could not be formed.
    #[error("cannot form the request {}", text::line(request))]
    Form {
        /// Method and path.
        request: String,
        #[source]
        source: http::Error,
    },
    /// The connection broke, or what came is no HTTP.
    #[error("no proper HTTP answer to {}", text::line(request))]
    Exchange {
        /// Method and path.
        request: String,
        #[source]
        source: hyper::Error,
    },
    /// The daemon says no.
    #[error("{}", refusal(.0))]
    Refused(Box<Status>),
    /// An error that is no `Status`: not our daemon.
    #[error("unexpected answer {status} to {}: {excerpt:?}", text::line(request))]
    Unexpected {
        /// Method and path.
        request: String,
        /// Of the answer.
        status: StatusCode,
        /// How the answer begins.
        excerpt: String,
    },
    /// The answer has another form.
    #[error("the answer to {} is not what an imagevol daemon says: {excerpt:?}", text::line(request))]
    Decode {
        /// Method and path.
        request: String,
        /// How the answer begins.
        excerpt: String,
        #[source]
        source: serde_json::Error,
    },
    /// The answer is larger than any that the daemon gives.
    #[error("the answer to {} is larger than {limit} bytes", text::line(request))]
    TooLarge {
        /// Method and path.
        request: String,
        /// In bytes.
        limit: usize,
    },
}

type Result<T, E = ClientError> = std::result::Result<T, E>;

// === impl Client ===

impl Client {
    /// A client of the daemon that listens at `socket`; connects at the first request.
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// `GET`s one JSON document.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    /// `PUT`s without a body: the path says it all.
    pub(crate) async fn put<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(Method::PUT, path, Bytes::new()).await
    }

    /// `DELETE`s.
    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(Method::DELETE, path, Bytes::new()).await
    }

    /// `POST`s `body`.
    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: Bytes) -> Result<T> {
        self.call(Method::POST, path, body).await
    }

    /// `POST`s `body`; the answer is a stream of JSON lines.
    pub(crate) async fn post_for_lines(&self, path: &str, body: Bytes) -> Result<Lines> {
        self.upload_for_lines(path, whole(body)).await
    }

    /// `POST`s `body` while the answer, a stream of JSON lines, is read.
    pub(crate) async fn upload_for_lines(&self, path: &str, body: Upload) -> Result<Lines> {
        let (request, response, mut driver) = self.send(Method::POST, path, body).await?;
        let status = response.status();
        if !status.is_success() {
            let body = collect(&request, response.into_body(), &mut driver).await?;
            return Err(refused(request, status, &body));
        }
        Ok(Lines { request, body: response.into_body(), driver, buffer: Vec::new(), scanned: 0 })
    }

    /// `GET`s something that is no JSON, in pieces.
    pub(crate) async fn download(&self, path: &str) -> Result<Download> {
        let (request, response, mut driver) = self.send(Method::GET, path, whole(Bytes::new())).await?;
        let status = response.status();
        if !status.is_success() {
            let body = collect(&request, response.into_body(), &mut driver).await?;
            return Err(refused(request, status, &body));
        }
        let (parts, body) = response.into_parts();
        Ok(Download { headers: parts.headers, request, body, driver })
    }

    async fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T> {
        let (request, response, mut driver) = self.send(method, path, whole(body)).await?;
        let status = response.status();
        let body = collect(&request, response.into_body(), &mut driver).await?;
        if !status.is_success() {
            return Err(refused(request, status, &body));
        }
        decode(&request, &body)
    }

    async fn send(&self, method: Method, path: &str, body: Upload) -> Result<(String, Response<Incoming>, Driver)> {
        let name = format!("{method} {path}");
        let request = Request::builder()
            .method(method)
            .uri(path)
            // HTTP/1.1 wants a host (RFC 9112, section 3.2); a unix socket has none.
            .header(http::header::HOST, "localhost")
            .header(http::header::ACCEPT, "application/json")
            .body(body)
            .map_err(|source| ClientError::Form { request: name.clone(), source })?;
        let stream = connect(&self.socket).await?;
        let failed = |source| ClientError::Exchange { request: name.clone(), source };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        let mut driver = connection.boxed().fuse();
        let response = drive(&mut driver, sender.send_request(request)).await.map_err(failed)?;
        Ok((name, response, driver))
    }
}

// === impl Download ===

impl Download {
    /// The next piece; none once the answer has ended well.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        while let Some(frame) = drive(&mut self.driver, self.body.frame()).await {
            let frame = frame.map_err(|source| ClientError::Exchange { request: self.request.clone(), source })?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

// === impl Lines ===

impl Lines {
    /// The next line; none once the answer has ended.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        loop {
            if let Some(line) = self.take_line() {
                return decode(&self.request, &line).map(Some);
            }
            if self.buffer.len() > MAX_LINE_BYTES {
                return Err(ClientError::TooLarge { request: self.request.clone(), limit: MAX_LINE_BYTES });
            }
            if !self.fill().await? {
                return self.last();
            }
        }
    }

    /// The first whole line that is not blank.
    fn take_line(&mut self) -> Option<Vec<u8>> {
        while let Some(more) = self.buffer.iter().skip(self.scanned).position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=self.scanned + more).collect();
            self.scanned = 0;
            if !line.trim_ascii().is_empty() {
                return Some(line);
            }
        }
        self.scanned = self.buffer.len();
        None
    }

    /// Reads on; false at the end of the answer.
    async fn fill(&mut self) -> Result<bool> {
        let Some(frame) = drive(&mut self.driver, self.body.frame()).await else { return Ok(false) };
        let frame = frame.map_err(|source| ClientError::Exchange { request: self.request.clone(), source })?;
        if let Some(data) = frame.data_ref() {
            self.buffer.extend_from_slice(data);
        }
        Ok(true)
    }

    /// What stands after the last line end.
    fn last<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        let rest = std::mem::take(&mut self.buffer);
        if rest.trim_ascii().is_empty() { Ok(None) } else { decode(&self.request, &rest).map(Some) }
    }
}

// === impl ClientError ===

impl ClientError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Some(
                "the socket is its owner's alone: run the command as that user, root for a system service".to_owned(),
            ),
            Self::Connect { .. } => {
                Some("is imagevold running? Another socket is given with --socket or IMAGEVOL_SOCKET".to_owned())
            }
            Self::Exchange { .. } | Self::Unexpected { .. } | Self::Decode { .. } | Self::TooLarge { .. } => {
                Some("does another program, or another version of imagevold, listen at this socket?".to_owned())
            }
            Self::Form { .. } | Self::Refused(_) => None,
        }
    }

    /// Whether the daemon does not know the object.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(status) if status.reason.as_deref() == Some("NotFound"))
    }
}

/// What the server refused, as kubectl says it (kubectl, pkg/cmd/util/helpers.go, `checkErr` and `StandardErrorMessage`).
pub(crate) fn refusal(status: &Status) -> String {
    let message = text::block(status.message.as_deref().unwrap_or("no message")).into_owned();
    match status.reason.as_deref() {
        Some("Invalid") => invalid(status).unwrap_or(message),
        None | Some("") => format!("Error from server: {message}"),
        Some(reason) => format!("Error from server ({}): {message}", text::line(reason)),
    }
}

/// `The Pod "x" is invalid:` with its causes; none where the status has no details.
fn invalid(status: &Status) -> Option<String> {
    let details = status.details.as_ref()?;
    let (kind, name) = (details.kind.as_deref().unwrap_or_default(), details.name.as_deref().unwrap_or_default());
    let causes: Vec<String> = details.causes.iter().flatten().map(cause).collect();
    let head = format!("The {} {:?} is invalid", text::line(kind), text::line(name));
    match causes.as_slice() {
        [] => None,
        [one] => Some(format!("{head}: {one}")),
        several => Some(format!("{head}: \n* {}", several.join("\n* "))),
    }
}

fn cause(cause: &StatusCause) -> String {
    let field = cause.field.as_deref().unwrap_or_default();
    format!("{}: {}", text::line(field), text::line(cause.message.as_deref().unwrap_or_default()))
}

fn whole(body: Bytes) -> Upload {
    Full::new(body).map_err(|never| match never {}).boxed()
}

async fn connect(socket: &Path) -> Result<UnixStream> {
    UnixStream::connect(socket).await.map_err(|source| ClientError::Connect { socket: socket.to_owned(), source })
}

/// Awaits `work` while the connection is kept going. How the connection itself ends is `work`'s to report.
async fn drive<T>(driver: &mut Driver, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    tokio::select! {
        biased;
        done = &mut work => done,
        _ended = driver => work.await,
    }
}

async fn collect(request: &str, body: Incoming, driver: &mut Driver) -> Result<Bytes> {
    match drive(driver, Limited::new(body, MAX_ANSWER_BYTES).collect()).await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) => Err(broken(request.to_owned(), error)),
    }
}

fn broken(request: String, error: Box<dyn std::error::Error + Send + Sync>) -> ClientError {
    match error.downcast::<hyper::Error>() {
        Ok(source) => ClientError::Exchange { request, source: *source },
        // `Limited` yields the body's error or this one.
        Err(other) => {
            debug_assert!(other.is::<LengthLimitError>());
            ClientError::TooLarge { request, limit: MAX_ANSWER_BYTES }
        }
    }
}

fn refused(request: String, status: StatusCode, body: &[u8]) -> ClientError {
    match serde_json::from_slice::<Status>(body) {
        // Every field of a Status is optional: other programs' `{"message": ...}` would pass for one.
        Ok(refusal) if refusal.code.is_some() => ClientError::Refused(Box::new(refusal)),
        Ok(_) | Err(_) => ClientError::Unexpected { request, status, excerpt: excerpt(body) },
    }
}

fn decode<T: DeserializeOwned>(request: &str, body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|source| ClientError::Decode {
        request: request.to_owned(),
        excerpt: excerpt(body),
        source,
    })
}

fn excerpt(body: &[u8]) -> String {
    let head = body.get(..MAX_EXCERPT_CHARS * 4).unwrap_or(body);
    String::from_utf8_lossy(head).trim().chars().take(MAX_EXCERPT_CHARS).collect()
}
