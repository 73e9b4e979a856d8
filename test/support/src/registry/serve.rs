//! Answers to requests (OCI distribution spec: pulling, tags, referrers; distribution's token specification).

use std::io;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream;
use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RANGE,
};
use http::{Method, StatusCode, request};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::json;

use super::auth::Verdict;
use super::state::State;
use super::{Content, Fault, Gate, Hangup, Request};

pub(super) type Body = BoxBody<Bytes, io::Error>;

/// An answer before it is turned into headers and a stream.
struct Answer {
    status: StatusCode,
    headers: Vec<(HeaderName, String)>,
    content: Content,
    from: u64,
    to: u64,
    truncate_at: Option<u64>,
    corrupt_at: Option<u64>,
    stall: Option<(u64, Gate)>,
    overlong: u64,
    no_length: bool,
}

/// What a path under `/v2/` means.
enum Route<'p> {
    Ping,
    Manifest(&'p str, &'p str),
    Blob(&'p str, &'p str),
    Tags(&'p str),
    Referrers(&'p str, &'p str),
    Unknown,
}

pub(super) async fn answer(
    state: Arc<State>,
    request: http::Request<Incoming>,
) -> Result<http::Response<Body>, Hangup> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Hangup)?.to_bytes();
    let body = String::from_utf8_lossy(&body).into_owned();
    let faults = state.faults.meet(&format!("{} {}", parts.method, parts.uri));
    for fault in &faults {
        if let Fault::Hold(gate) = fault {
            gate.pass().await;
        }
    }
    let answer = decide(&state, &parts, &body, &faults);
    let status = answer.as_ref().map_or(0, |answer| answer.status.as_u16());
    state.lock().log.push(Request {
        method: parts.method.clone(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body,
        status,
    });
    answer.map(|answer| answer.respond(&parts.method))
}

fn decide(state: &State, parts: &request::Parts, body: &str, faults: &[Fault]) -> Result<Answer, Hangup> {
    for fault in faults {
        match fault {
            Fault::Hangup => return Err(Hangup),
            Fault::Answer { status, headers, body } => return Ok(canned(*status, headers, body)),
            Fault::RedirectTo { base, status } => return Ok(redirect(parts, base, *status)),
            Fault::Hold(_)
            | Fault::Truncate(_)
            | Fault::Shorten(_)
            | Fault::StallAt(..)
            | Fault::Corrupt(_)
            | Fault::IgnoreRange
            | Fault::Overlong(_)
            | Fault::NoLength
            | Fault::Header(..) => {}
        }
    }
    let ranges = !faults.iter().any(|fault| matches!(fault, Fault::IgnoreRange));
    let mut answer = route(state, parts, body, ranges);
    for fault in faults {
        answer.spoil(fault);
    }
    Ok(answer)
}

fn route(state: &State, parts: &request::Parts, body: &str, ranges: bool) -> Answer {
    let path = parts.uri.path();
    if path == "/token" {
        return token(state, parts, body);
    }
    let route = Route::of(path);
    if let Some(refusal) = refusal(state, parts, &route) {
        return refusal;
    }
    let query = parts.uri.query().unwrap_or_default();
    match route {
        Route::Ping => Answer::json(200, &json!({})),
        Route::Manifest(repository, reference) => manifest(state, repository, reference),
        Route::Blob(repository, digest) => blob(state, parts, repository, digest, ranges),
        Route::Tags(repository) => tags(state, repository, query),
        Route::Referrers(repository, digest) => referrers(state, repository, digest, query),
        Route::Unknown => Answer::error(404, "NAME_INVALID", "no such path"),
    }
}

fn refusal(state: &State, parts: &request::Parts, route: &Route<'_>) -> Option<Answer> {
    match state.lock().auth.check(&parts.headers, route.repository(), &state.url) {
        Verdict::Allowed => None,
        Verdict::Denied => Some(Answer::error(403, "DENIED", "requested access to the resource is denied")),
        Verdict::Challenge(challenge) => {
            let mut answer = Answer::error(401, "UNAUTHORIZED", "authentication required");
            answer.headers.push((http::header::WWW_AUTHENTICATE, challenge));
            Some(answer)
        }
    }
}

fn manifest(state: &State, repository: &str, reference: &str) -> Answer {
    let Some(manifest) = state.lock().manifest(repository, reference) else {
        return Answer::error(404, "MANIFEST_UNKNOWN", "manifest unknown");
    };
    let mut answer = Answer::new(200, Content::Bytes(manifest.bytes));
    answer.headers.push((CONTENT_TYPE, manifest.media_type));
    answer.headers.push((HeaderName::from_static("docker-content-digest"), manifest.digest.to_string()));
    answer
}

fn blob(state: &State, parts: &request::Parts, repository: &str, digest: &str, ranges: bool) -> Answer {
    let Some(content) = state.lock().blob(repository, digest) else {
        return Answer::error(404, "BLOB_UNKNOWN", "blob unknown to registry");
    };
    let size = content.len();
    let range = parts.headers.get(RANGE).filter(|_| ranges).and_then(|value| parse_range(value, size));
    let mut answer = Answer::new(200, content);
    answer.headers.push((CONTENT_TYPE, "application/octet-stream".to_owned()));
    answer.headers.push((ACCEPT_RANGES, "bytes".to_owned()));
    let Some((from, to)) = range else { return answer };
    if from >= to {
        return Answer::new(416, Content::Bytes(Bytes::new()));
    }
    answer.status = StatusCode::PARTIAL_CONTENT;
    answer.headers.push((CONTENT_RANGE, format!("bytes {from}-{}/{size}", to - 1)));
    (answer.from, answer.to) = (from, to);
    answer
}

/// `bytes=a-` or `bytes=a-b`, as a half-open range.
fn parse_range(value: &HeaderValue, size: u64) -> Option<(u64, u64)> {
    let (from, last) = value.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
    let to = last.parse::<u64>().map_or(size, |last| (last + 1).min(size));
    Some((from.parse().ok()?, to))
}

fn tags(state: &State, repository: &str, query: &str) -> Answer {
    let Some(mut tags) = state.lock().tags(repository, query_value(query, "last").unwrap_or_default()) else {
        return Answer::error(404, "NAME_UNKNOWN", "repository name not known to registry");
    };
    if let Some(count) = query_value(query, "n").and_then(|n| n.parse().ok()) {
        tags.truncate(count);
    }
    Answer::json(200, &json!({ "name": repository, "tags": tags }))
}

fn referrers(state: &State, repository: &str, digest: &str, query: &str) -> Answer {
    let wanted = query_value(query, "artifactType").map(|value| value.replace("%2F", "/"));
    let entries: Vec<_> = state
        .lock()
        .referrers(repository, digest)
        .into_iter()
        .map(|(manifest, document)| (manifest, document.get("artifactType").cloned().unwrap_or_default()))
        .filter(|(_, artifact_type)| wanted.is_none() || artifact_type.as_str() == wanted.as_deref())
        .map(|(manifest, artifact_type)| {
            json!({
                "mediaType": manifest.media_type,
                "digest": manifest.digest,
                "size": manifest.bytes.len(),
                "artifactType": artifact_type,
            })
        })
        .collect();
    let index = json!({ "schemaVersion": 2, "mediaType": crate::image::OCI_INDEX, "manifests": entries });
    let mut answer = Answer::json(200, &index);
    answer.headers = vec![(CONTENT_TYPE, crate::image::OCI_INDEX.to_owned())];
    answer
}

/// `GET` with basic authentication, or OAuth2 `POST` with a refresh token.
fn token(state: &State, parts: &request::Parts, body: &str) -> Answer {
    let form = if parts.method == Method::POST { body } else { parts.uri.query().unwrap_or_default() };
    let scope = query_value(form, "scope").unwrap_or_default().replace("%3A", ":").replace("%2F", "/");
    let mut store = state.lock();
    let user = match (&parts.method, query_value(form, "refresh_token")) {
        (&Method::POST, Some(token)) => store.auth.identity_user(token),
        (&Method::POST, None) => Err(()),
        _ => store.auth.basic_user(&parts.headers),
    };
    let Some(token) = store.auth.issue(user, &scope) else {
        return Answer::error(401, "UNAUTHORIZED", "incorrect username or password");
    };
    let field = if parts.method == Method::POST { "access_token" } else { "token" };
    Answer::json(200, &json!({ field: token, "expires_in": 300 }))
}

fn query_value<'q>(query: &'q str, key: &str) -> Option<&'q str> {
    query.split('&').filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == key).map(|(_, value)| value)
}

fn canned(status: u16, headers: &[(String, String)], body: &Bytes) -> Answer {
    let mut answer = Answer::new(status, Content::Bytes(body.clone()));
    let named = |(name, value): &(String, String)| (name.parse().unwrap(), value.clone());
    answer.headers = headers.iter().map(named).collect();
    answer
}

fn redirect(parts: &request::Parts, base: &str, status: u16) -> Answer {
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    let mut answer = Answer::new(status, Content::Bytes(Bytes::new()));
    answer.headers.push((LOCATION, format!("{base}{target}")));
    answer
}

// === impl Route ===

impl<'p> Route<'p> {
    /// Whatever stands before `/v2/` is the path of a mirror.
    fn of(path: &'p str) -> Self {
        let Some((_, rest)) = path.split_once("/v2/") else { return Self::Unknown };
        if rest.is_empty() {
            return Self::Ping;
        }
        if let Some(repository) = rest.strip_suffix("/tags/list") {
            return Self::Tags(repository);
        }
        let split = |middle: &str| rest.rsplit_once(middle);
        if let Some((repository, reference)) = split("/manifests/") {
            return Self::Manifest(repository, reference);
        }
        if let Some((repository, digest)) = split("/blobs/") {
            return Self::Blob(repository, digest);
        }
        split("/referrers/").map_or(Self::Unknown, |(repository, digest)| Self::Referrers(repository, digest))
    }

    fn repository(&self) -> &'p str {
        match self {
            Self::Manifest(name, _) | Self::Blob(name, _) | Self::Tags(name) | Self::Referrers(name, _) => name,
            Self::Ping | Self::Unknown => "",
        }
    }
}

// === impl Answer ===

impl Answer {
    fn new(status: u16, content: Content) -> Self {
        Self {
            status: StatusCode::from_u16(status).unwrap(),
            headers: Vec::new(),
            from: 0,
            to: content.len(),
            content,
            truncate_at: None,
            corrupt_at: None,
            stall: None,
            overlong: 0,
            no_length: false,
        }
    }

    fn json(status: u16, body: &serde_json::Value) -> Self {
        let mut answer = Self::new(status, Content::Bytes(body.to_string().into()));
        answer.headers.push((CONTENT_TYPE, "application/json".to_owned()));
        answer
    }

    fn error(status: u16, code: &str, message: &str) -> Self {
        Self::json(status, &json!({ "errors": [{ "code": code, "message": message }] }))
    }

    fn spoil(&mut self, fault: &Fault) {
        match fault {
            Fault::Truncate(at) => self.truncate_at = Some(*at),
            Fault::Shorten(length) => self.to = self.to.min(self.from + length),
            Fault::StallAt(at, gate) => self.stall = Some((*at, gate.clone())),
            Fault::Corrupt(at) => self.corrupt_at = Some(*at),
            Fault::Overlong(count) => self.overlong = *count,
            Fault::NoLength => self.no_length = true,
            Fault::Header(name, value) => self.set_header(name, value),
            Fault::Answer { .. } | Fault::RedirectTo { .. } | Fault::Hangup | Fault::Hold(_) | Fault::IgnoreRange => {}
        }
    }

    fn set_header(&mut self, name: &str, value: &str) {
        let name: HeaderName = name.parse().unwrap();
        self.headers.retain(|(known, _)| *known != name);
        if !value.is_empty() {
            self.headers.push((name, value.to_owned()));
        }
    }

    fn respond(self, method: &Method) -> http::Response<Body> {
        let mut response = http::Response::builder().status(self.status);
        for (name, value) in &self.headers {
            response = response.header(name, value);
        }
        if !self.no_length {
            response = response.header(CONTENT_LENGTH, self.to - self.from + self.overlong);
        }
        let body = if method == Method::HEAD { Self::new(200, Content::Bytes(Bytes::new())) } else { self };
        response.body(body.into_body()).unwrap()
    }

    fn into_body(self) -> Body {
        let frames = stream::unfold((self, 0), |(mut answer, sent)| async move {
            let frame = answer.frame(sent).await?;
            let sent = sent + frame.as_ref().map_or(0, |bytes| bytes.len() as u64);
            Some((frame.map(Frame::data), (answer, sent)))
        });
        StreamBody::new(frames).boxed()
    }

    /// The bytes after the first `sent`, up to the next thing that happens.
    async fn frame(&mut self, sent: u64) -> Option<Result<Bytes, io::Error>> {
        if self.truncate_at.is_some_and(|at| sent >= at) {
            // Yields once so that hyper writes out what it has before it sees the error.
            tokio::task::yield_now().await;
            return Some(Err(io::Error::other("truncated by the test")));
        }
        if let Some((_, gate)) = self.stall.take_if(|(at, _)| sent >= *at) {
            gate.pass().await;
        }
        let stop = [self.truncate_at, self.stall.as_ref().map(|(at, _)| *at)].into_iter().flatten().min();
        let to = stop.map_or(self.to, |stop| self.to.min(self.from + stop));
        let chunk = self.content.chunk(self.from + sent, to);
        if !chunk.is_empty() {
            return Some(Ok(self.corrupted(sent, chunk)));
        }
        let extra = usize::try_from(std::mem::take(&mut self.overlong)).unwrap();
        (extra > 0).then(|| Ok(Bytes::from(vec![b'!'; extra])))
    }

    fn corrupted(&self, sent: u64, chunk: Bytes) -> Bytes {
        let at = self.corrupt_at.and_then(|at| at.checked_sub(sent)).and_then(|at| usize::try_from(at).ok());
        let Some(at) = at.filter(|at| *at < chunk.len()) else { return chunk };
        let mut bytes = BytesMut::with_capacity(chunk.len());
        bytes.put(chunk);
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1;
        }
        bytes.freeze()
    }
}
