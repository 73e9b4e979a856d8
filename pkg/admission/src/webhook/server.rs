//! The HTTPS server that the API server asks.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use imagevol_base::Supervisor;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::review;
use crate::translate::Scope;

/// The API server takes bodies of 3 MiB (k8s.io/apiserver, `pkg/server/config.go`, `MaxRequestBodyBytes`), and an
/// update is reviewed with the object as it was and as it is to be; the rest of a review is small.
const MAX_BODY: usize = 7 << 20;
/// For a whole request. The API server gives a webhook 10 s if its configuration does not say otherwise
/// (`timeoutSeconds`).
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// For a TLS handshake (client-go, `TLSHandshakeTimeout`).
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// Until a connection without a request is closed. The API server's client closes its own after 90 s (client-go,
/// `IdleConnTimeout`): it has to be the first, or a request meets the closing of its connection.
const IDLE_DEADLINE: Duration = Duration::from_mins(2);
/// An API server keeps up to 25 idle connections (client-go, `idleConnsPerHost`), and there are few of them.
const MAX_CONNECTIONS: usize = 256;
/// Reviews that are read and answered at once; with [`MAX_BODY`] it bounds the memory.
const MAX_REVIEWS: usize = 16;
/// Before the next try to take a connection, where the machine is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

type Answer = Response<Full<Bytes>>;

/// The server's state, of which each connection has a share.
#[derive(Debug)]
pub(super) struct Server {
    ready: Arc<AtomicBool>,
    stopping: CancellationToken,
    reviews: Semaphore,
}

/// Why a request gets no review.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("no such path")]
    NoSuchPath,
    #[error("{method} is not for this path")]
    Method { method: Method },
    #[error("the body has to be application/json")]
    MediaType,
    #[error("the body has more than {MAX_BODY} bytes")]
    TooLarge,
    #[error("the body did not arrive whole")]
    Body,
    #[error("the request took too long")]
    Deadline,
    #[error(transparent)]
    Review(#[from] review::ReviewError),
}

// === impl Failure ===

impl Failure {
    fn status(&self) -> StatusCode {
        match self {
            Self::NoSuchPath => StatusCode::NOT_FOUND,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Body | Self::Review(_) => StatusCode::BAD_REQUEST,
            Self::Deadline => StatusCode::REQUEST_TIMEOUT,
        }
    }
}

// === impl Server ===

impl Server {
    /// `ready` is what `/readyz` says, until `stopping`.
    pub(super) fn new(ready: Arc<AtomicBool>, stopping: CancellationToken) -> Self {
        Self { ready, stopping, reviews: Semaphore::new(MAX_REVIEWS) }
    }

    /// Answers any request, also the ones that cannot be answered.
    pub(super) async fn answer<B>(&self, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let answered = tokio::time::timeout(REQUEST_DEADLINE, self.route(request)).await;
        let mut answer = answered.unwrap_or(Err(Failure::Deadline)).unwrap_or_else(|failure| {
            tracing::warn!(%method, ?path, error = &failure as &dyn std::error::Error, "a request is not answered");
            plain(failure.status(), format!("{failure}\n"))
        });
        if self.stopping.is_cancelled() {
            // Who asks again asks another replica.
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }

    async fn route<B>(&self, request: Request<B>) -> Result<Answer, Failure>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/healthz" | "/livez") => Ok(plain(StatusCode::OK, "ok\n")),
            (&Method::GET, "/readyz") => Ok(self.readiness()),
            (&Method::POST, "/mutate") => self.review(request, Scope::Namespace).await,
            (&Method::POST, "/mutate/annotated") => self.review(request, Scope::Annotated).await,
            (method, "/healthz" | "/livez" | "/readyz" | "/mutate" | "/mutate/annotated") => {
                Err(Failure::Method { method: method.clone() })
            }
            _ => Err(Failure::NoSuchPath),
        }
    }

    fn readiness(&self) -> Answer {
        if self.stopping.is_cancelled() {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "stopping\n");
        }
        if self.ready.load(Ordering::Relaxed) {
            return plain(StatusCode::OK, "ok\n");
        }
        plain(StatusCode::SERVICE_UNAVAILABLE, "the API server does not trust the certificate yet\n")
    }

    async fn review<B>(&self, request: Request<B>, scope: Scope) -> Result<Answer, Failure>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if !is_json(request.headers().get(header::CONTENT_TYPE)) {
            return Err(Failure::MediaType);
        }
        // Never closed.
        let _permit = self.reviews.acquire().await.map_err(|_| Failure::Deadline)?;
        let body = Limited::new(request.into_body(), MAX_BODY)
            .collect()
            .await
            .map_err(|error| if error.is::<LengthLimitError>() { Failure::TooLarge } else { Failure::Body })?;
        let mut answer = Response::new(Full::from(review::answer(&body.to_bytes(), scope)?));
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(answer)
    }
}

fn is_json(media_type: Option<&HeaderValue>) -> bool {
    let essence = media_type.and_then(|value| value.to_str().ok()?.split(';').next()).map(str::trim);
    essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"))
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(text.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

/// Takes connections until `stopped`, then lets those end that are being answered.
pub(super) async fn listen(
    listener: TcpListener,
    tls: TlsAcceptor,
    server: Arc<Server>,
    stopped: CancellationToken,
    supervisor: Supervisor,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Some((stream, place)) = next(&listener, &places, &stopped).await {
        let (tls, server, stopped) = (tls.clone(), Arc::clone(&server), stopped.clone());
        supervisor.spawn("webhook connection", async move {
            serve(stream, tls, server, stopped).await;
            drop(place);
        });
    }
}

/// The next connection, when there is a place for it; `None` at the end.
async fn next(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    stopped: &CancellationToken,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let accepted = async {
        let place = Arc::clone(places).acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return Some((stream, place)),
                Err(error) => tracing::warn!(%error, "cannot take a connection"),
            }
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    };
    tokio::select! {
        () = stopped.cancelled() => None,
        accepted = accepted => accepted,
    }
}

async fn serve(stream: TcpStream, tls: TlsAcceptor, server: Arc<Server>, stopped: CancellationToken) {
    let stream = match tokio::time::timeout(HANDSHAKE_DEADLINE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a handshake failed"),
        Err(_) => return tracing::debug!("a handshake took too long"),
    };
    let service = service_fn(|request: Request<Incoming>| {
        let server = Arc::clone(&server);
        async move { Ok::<_, Infallible>(server.answer(request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_DEADLINE)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

#[cfg(test)]
mod tests;
