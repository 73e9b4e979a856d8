//! The local API: HTTP and JSON over a unix socket that only root can reach.

mod gc;
mod holders;
mod images;
mod named;
mod node;
mod pins;
mod pods;
mod prefetch;
mod references;
mod transfer;
mod volumes;
mod why;

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use imagevol_base::Supervisor;
use tokio::net::{UnixListener, UnixStream};

use crate::fsck::Mode;
use crate::http::{Answer, Failure, health, no_such_route, serve};
use crate::node::Node;

/// Longest body: what a file of manifests may be.
const MAX_BODY: usize = 16 << 20;
/// The socket's directory, and the socket itself, are for root only.
const DIR_MODE: u32 = 0o700;
const SOCKET_MODE: u32 = 0o600;

/// Listens and serves. A socket that a dead daemon left is replaced; one that answers is not.
pub(crate) async fn start(path: &Path, node: Node, supervisor: &Supervisor) -> anyhow::Result<()> {
    let listener = listen(path).await.with_context(|| format!("cannot listen on {}", path.display()))?;
    let connections = supervisor.child("api");
    let path = path.to_owned();
    supervisor.spawn("api", async move {
        loop {
            tokio::select! {
                () = connections.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let node = node.clone();
                        serve(stream, move |request| answer(node.clone(), request), &connections);
                    }
                    Err(error) => tracing::warn!(%error, "cannot accept a connection"),
                },
            }
        }
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::debug!(%error, "cannot remove the socket");
        }
    });
    Ok(())
}

async fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    let parent = path.parent().context("the socket has no directory")?;
    std::fs::DirBuilder::new().recursive(true).mode(DIR_MODE).create(parent).context("cannot make its directory")?;
    anyhow::ensure!(UnixStream::connect(path).await.is_err(), "another imagevold answers there");
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).context("cannot remove the old socket");
        }
        _ => {}
    }
    // Killed after the bind: a socket that nobody answers, which the next start replaces.
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE)).context("cannot set its mode")?;
    Ok(listener)
}

async fn answer(node: Node, request: Request<Incoming>) -> Answer {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let segments: Vec<String> = path.split('/').filter(|segment| !segment.is_empty()).map(decode).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let result = match (&parts.method, segments.as_slice()) {
        (&Method::GET, ["livez"]) => Ok(health(&node.not_live())),
        (&Method::GET, ["readyz" | "healthz"]) => Ok(health(&node.not_ready())),
        (&Method::GET, ["version"]) => Ok(crate::http::json(&crate::node::version())),
        (&Method::GET, ["status"]) => node::status(&node).await,
        (&Method::GET, ["fsck"]) => node::fsck(&node, Mode::Check).await,
        (&Method::POST, ["fsck"]) => node::fsck(&node, Mode::Repair).await,
        (&Method::GET, ["volumes"]) => Ok(volumes::list(&node)),
        (&Method::POST, ["apply"]) => pods::apply(&node, &query, body).await,
        (&Method::POST, ["gc"]) => gc::collect(&node, body).await,
        (&Method::GET, ["df"]) => gc::disk_usage(&node).await,
        (&Method::GET, ["images", "why"]) => why::explain(&node, &query).await,
        (method, ["pins"]) => pins::route(&node, method, &query).await,
        (method, ["prefetch"]) => prefetch::route(&node, method, &query, body).await,
        (method, ["references", rest @ ..]) => references::route(&node, method, rest, body).await,
        (method, ["images", rest @ ..]) => images::route(&node, method, rest, &query, body).await,
        (method, ["api", "v1", rest @ ..]) => pods::route(&node, method, rest).await,
        (method, _) => Ok(no_such_route(method, &path)),
    };
    result.unwrap_or_else(Failure::into_answer)
}

/// A request's body, whole and bounded.
async fn read_body(body: Incoming) -> Result<Bytes, Failure> {
    let collected = Limited::new(body, MAX_BODY).collect().await;
    let too_large = |error| Failure::bad_request(format!("request body: {error}"));
    Ok(collected.map_err(too_large)?.to_bytes())
}

/// The query of a request.
struct Query(Vec<(String, String)>);

// === impl Query ===

impl Query {
    fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (decode(k), decode(v))).collect(),
        )
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }
}

/// Percent-decoding (RFC 3986, 2.1). What is no escape stays as it is; names are checked where they are used.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escape = (*first == b'%').then(|| after.get(..2)).flatten();
        let value =
            escape.and_then(|hex| std::str::from_utf8(hex).ok()).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(value.unwrap_or(*first));
        rest = if value.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("reference=localhost%3A5000%2Fa%3A1&dryRun=All&flag");
        assert_eq!(query.get("reference"), Some("localhost:5000/a:1"));
        assert_eq!(query.get("dryRun"), Some("All"));
        assert_eq!((query.get("flag"), query.get("none")), (Some(""), None));
    }

    #[test]
    fn what_is_no_escape_stays() {
        assert_eq!(decode("100%"), "100%");
        assert_eq!(decode("%zz%4"), "%zz%4");
    }
}
