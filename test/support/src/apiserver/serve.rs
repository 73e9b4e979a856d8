//! Answers to requests, by the API conventions.

use std::io;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{Method, Response, request};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};

use super::store::{Collection, Expired, Selector, Store};
use super::{ApiFault, ApiRequest, Body, FakeApiServer, patch};

type Lines = tokio::sync::mpsc::UnboundedReceiver<Bytes>;

/// An answer that is not a watch.
struct Answer {
    code: u16,
    body: String,
}

/// Where a request leads.
struct Target {
    collection: String,
    name: Option<String>,
    query: Vec<(String, String)>,
}

pub(super) async fn answer(server: &FakeApiServer, request: http::Request<Bytes>) -> io::Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let fault = server.meet(&format!("{} {}", parts.method, parts.uri));
    if let Some(ApiFault::Hold(gate)) = &fault {
        gate.pass().await;
    }
    let answered = decide(server, &parts, &body, fault);
    let code = answered.as_ref().map_or(0, |response| response.status().as_u16());
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let header = |name| parts.headers.get(name).map(text);
    server.script().requests.push(ApiRequest {
        method: parts.method.to_string(),
        target: parts.uri.path_and_query().unwrap().to_string(),
        authorization: header(AUTHORIZATION),
        user_agent: header(USER_AGENT),
        body: serde_json::from_slice(&body).ok(),
        code,
    });
    answered
}

fn decide(
    server: &FakeApiServer,
    parts: &request::Parts,
    body: &Bytes,
    fault: Option<ApiFault>,
) -> io::Result<Response<Body>> {
    let wanted = server.script().token.as_ref().map(|token| format!("Bearer {token}"));
    let shown = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    if wanted.as_deref().is_some_and(|wanted| shown != Some(wanted)) {
        return Ok(Answer::status(401, "Unauthorized").respond());
    }
    match fault {
        None | Some(ApiFault::Hold(_)) => Ok(route(server, parts, body, None)),
        Some(ApiFault::Status { code, reason }) => Ok(Answer::status(code, reason).respond()),
        Some(ApiFault::Answer { code, body }) => Ok(Answer { code, body }.respond()),
        Some(ApiFault::Hangup) => Err(hangup()),
        Some(ApiFault::HangupAfter) => {
            drop(route(server, parts, body, None));
            Err(hangup())
        }
        Some(ApiFault::Truncate) => Ok(truncated(server, parts, body)),
        Some(ApiFault::WatchLine(line)) => Ok(route(server, parts, body, Some(format!("{line}\n")))),
        Some(ApiFault::WatchEnds) => Ok(respond(200, full(String::new()))),
    }
}

fn route(server: &FakeApiServer, parts: &request::Parts, body: &Bytes, first_line: Option<String>) -> Response<Body> {
    let target = Target::of(parts);
    let mut store = server.store();
    if target.get("watch") == Some("true") {
        return watch(&mut store, &target, first_line);
    }
    let sent = || serde_json::from_slice::<Value>(body).ok();
    let answer = match (&parts.method, target.name.as_deref()) {
        (&Method::GET, None) => list(&mut store, &target),
        (&Method::GET, Some(name)) => {
            store.get(&target.collection, name).map_or_else(not_found, |object| Answer::json(200, &object))
        }
        (&Method::POST, None) => sent().map_or_else(bad_request, |object| create(&mut store, &target, object)),
        (&Method::PUT, Some(name)) => {
            sent().map_or_else(bad_request, |object| replace(&mut store, &target, name, object))
        }
        (&Method::PATCH, Some(name)) => {
            sent().map_or_else(bad_request, |changes| change(&mut store, parts, name, &changes))
        }
        (&Method::DELETE, Some(name)) => {
            if store.remove(&target.collection, name) {
                Answer::json(200, &json!({}))
            } else {
                not_found()
            }
        }
        _ => Answer::status(405, "MethodNotAllowed"),
    };
    answer.respond()
}

fn list(store: &mut Store, target: &Target) -> Answer {
    let at_least = target.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
    if at_least > store.version() {
        return Answer::status(504, "Timeout");
    }
    let limit = target.get("limit").and_then(|limit| limit.parse().ok());
    let limit = limit.map(|asked: usize| store.page.unwrap_or(asked));
    let selector = Selector::of(target.get("fieldSelector").unwrap_or_default());
    let page = store.page(&Collection::of(&target.collection), &selector, limit, target.get("continue"));
    match page {
        Ok(page) => Answer::json(
            200,
            &json!({
                "kind": "List", "apiVersion": "v1", "items": page.items,
                "metadata": {"resourceVersion": page.version.to_string(), "continue": page.next},
            }),
        ),
        Err(Expired) => Answer::status(410, "Expired"),
    }
}

fn watch(store: &mut Store, target: &Target, first_line: Option<String>) -> Response<Body> {
    let from = target.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
    let selector = Selector::of(target.get("fieldSelector").unwrap_or_default());
    let watched = store.watch(Collection::of(&target.collection), selector, from);
    let happening = |lines| stream::unfold(lines, |mut lines: Lines| async { Some((lines.recv().await?, lines)) });
    // As a real one: what is wrong with the version comes in the watch, not in its place.
    let expired = |Expired| stream::iter([Bytes::from(format!("{}\n", super::expired_line()))]);
    let lines = watched.map_or_else(|error| expired(error).left_stream(), |lines| happening(lines).right_stream());
    let lines = stream::iter(first_line.map(Bytes::from)).chain(lines).map(|line| Ok(Frame::data(line)));
    respond(200, BodyExt::boxed(StreamBody::new(lines)))
}

fn create(store: &mut Store, target: &Target, object: Value) -> Answer {
    let Some(name) = object["metadata"]["name"].as_str() else { return bad_request() };
    let of = Collection::of(&target.collection);
    if of.namespace().is_some_and(|namespace| store.terminating.contains(namespace)) {
        let details =
            json!({"causes": [{"reason": "NamespaceTerminating", "message": "namespace is being terminated"}]});
        return Answer::of_status(json!({"code": 403, "reason": "Forbidden", "details": details}));
    }
    if store.get(&target.collection, name).is_some() {
        return Answer::status(409, "AlreadyExists");
    }
    Answer::json(201, &store.put(&target.collection, object))
}

fn replace(store: &mut Store, target: &Target, name: &str, object: Value) -> Answer {
    match store.get(&target.collection, name) {
        None => not_found(),
        Some(before) if is_outdated(&before, &object) => Answer::status(409, "Conflict"),
        Some(_) => Answer::json(200, &store.put(&target.collection, object)),
    }
}

fn change(store: &mut Store, parts: &request::Parts, name: &str, changes: &Value) -> Answer {
    let target = Target::of(parts);
    let Some(mut object) = store.get(&target.collection, name) else { return not_found() };
    if is_outdated(&object, changes) {
        return Answer::status(409, "Conflict");
    }
    match parts.headers.get(CONTENT_TYPE).map(http::HeaderValue::as_bytes) {
        Some(b"application/merge-patch+json") => patch::merge(&mut object, changes),
        Some(b"application/strategic-merge-patch+json") => patch::strategic_merge(&mut object, changes),
        _ => return Answer::status(415, "UnsupportedMediaType"),
    }
    Answer::json(200, &store.put(&target.collection, object))
}

/// Whether a change is meant for another version than there is.
fn is_outdated(now: &Value, change: &Value) -> bool {
    let wanted = &change["metadata"]["resourceVersion"];
    wanted.is_string() && *wanted != now["metadata"]["resourceVersion"]
}

/// The first half of an answer, and then nothing.
fn truncated(server: &FakeApiServer, parts: &request::Parts, body: &Bytes) -> Response<Body> {
    let (head, whole) = route(server, parts, body, None).into_parts();
    let half = async move {
        let whole = whole.collect().await?.to_bytes();
        Ok(Frame::data(whole.slice(..whole.len() / 2)))
    };
    let frames = stream::once(half).chain(stream::once(async { Err(hangup()) }));
    Response::from_parts(head, BodyExt::boxed(StreamBody::new(Box::pin(frames))))
}

// === impl Target ===

impl Target {
    fn of(parts: &request::Parts) -> Self {
        let (collection, name) = split(parts.uri.path());
        let pairs = parts.uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        let query = pairs.map(|(key, value)| (key.to_owned(), decoded(value))).collect();
        Self { collection, name, query }
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.query.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

/// The collection, and the name of the object if the path has one.
fn split(path: &str) -> (String, Option<String>) {
    let parts: Vec<_> = path.trim_matches('/').split('/').collect();
    let base = if parts.first() == Some(&"api") { 2 } else { 3 };
    let kind = if parts.get(base) == Some(&"namespaces") && parts.len() > base + 2 { base + 3 } else { base + 1 };
    let (collection, name) = parts.split_at(kind.min(parts.len()));
    (format!("/{}", collection.join("/")), name.first().map(|name| (*name).to_owned()))
}

/// Undoes `application/x-www-form-urlencoded`.
fn decoded(value: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), value.bytes());
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits: String = rest.by_ref().take(2).map(char::from).collect();
                u8::from_str_radix(&digits, 16).unwrap()
            }
            other => other,
        });
    }
    String::from_utf8(bytes).unwrap()
}

// === impl Answer ===

impl Answer {
    fn json(code: u16, object: &Value) -> Self {
        Self { code, body: object.to_string() }
    }

    fn status(code: u16, reason: &str) -> Self {
        Self::of_status(json!({"code": code, "reason": reason}))
    }

    fn of_status(mut status: Value) -> Self {
        let code = status["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap();
        let reason = status["reason"].as_str().unwrap_or_default();
        let message = format!("the fake API server says {code} {reason}");
        let rest = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message});
        patch::merge(&mut status, &rest);
        Self { code, body: status.to_string() }
    }

    fn respond(self) -> Response<Body> {
        respond(self.code, full(self.body))
    }
}

fn respond(code: u16, body: Body) -> Response<Body> {
    Response::builder().status(code).header(CONTENT_TYPE, "application/json").body(body).unwrap()
}

fn full(body: String) -> Body {
    BodyExt::boxed(Full::new(Bytes::from(body)).map_err(|never| match never {}))
}

fn not_found() -> Answer {
    Answer::status(404, "NotFound")
}

fn bad_request() -> Answer {
    Answer::status(400, "BadRequest")
}

fn hangup() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the fake API server hangs up")
}
