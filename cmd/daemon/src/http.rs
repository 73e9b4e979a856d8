//! What both HTTP servers share: answers, errors as `metav1.Status`, and serving a connection until the daemon drains.

use std::convert::Infallible;
use std::future::Future;
use std::io;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use imagevol_api::metav1::Status;
use imagevol_base::Supervisor;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};

/// A body of an answer. One that fails breaks the answer off, which its reader sees.
pub(crate) type Body = BoxBody<Bytes, io::Error>;
/// An answer.
pub(crate) type Answer = Response<Body>;

/// A condition that is told as a `metav1.Status`.
#[derive(Debug)]
pub(crate) struct Failure {
    code: StatusCode,
    reason: &'static str,
    message: String,
}

// === impl Failure ===

impl Failure {
    pub(crate) fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into() }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    /// For the user.
    pub(crate) fn message(&self) -> String {
        self.message.clone()
    }

    pub(crate) fn into_answer(self) -> Answer {
        let status = Status {
            status: Some("Failure".to_owned()),
            code: Some(i32::from(self.code.as_u16())),
            reason: Some(self.reason.to_owned()),
            message: Some(self.message),
            ..Status::default()
        };
        let mut answer = json(&status);
        *answer.status_mut() = self.code;
        answer
    }
}

/// 200 with an object.
pub(crate) fn json<T: Serialize>(object: &T) -> Answer {
    match serde_json::to_vec(object) {
        Ok(bytes) => typed(bytes, "application/json"),
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written");
            let mut answer = text("answer cannot be written\n".to_owned());
            *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            answer
        }
    }
}

/// 200 with text.
pub(crate) fn text(text: String) -> Answer {
    typed(text.into_bytes(), "text/plain; charset=utf-8")
}

/// 200 with bytes of a type.
pub(crate) fn typed(bytes: Vec<u8>, media_type: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed());
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer
}

/// `metav1.Status` of success, as a delete answers.
pub(crate) fn success() -> Answer {
    json(&Status { status: Some("Success".to_owned()), ..Status::default() })
}

/// The answer to a path that exists for other methods, or not at all.
pub(crate) fn no_such_route(method: &Method, path: &str) -> Answer {
    Failure::not_found(format!("the server has no {method} {path}")).into_answer()
}

/// Health as Kubernetes' components tell it.
pub(crate) fn health(problems: &[String]) -> Answer {
    if problems.is_empty() {
        return text("ok\n".to_owned());
    }
    let mut answer = text(format!("{}\n", problems.join("\n")));
    *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    answer
}

/// Serves one connection; requests under way are finished when the daemon drains.
pub(crate) fn serve<S, H, F>(stream: S, handler: H, supervisor: &Supervisor)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let token = supervisor.token();
    supervisor.spawn("connection", async move {
        let handler = std::sync::Arc::new(handler);
        let service = service_fn(move |request| {
            let answer = handler(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = token.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection ended early");
        }
    });
}
