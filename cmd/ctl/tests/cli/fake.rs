//! A daemon that gives canned answers on a unix socket of its own, and remembers what it was asked.

use std::collections::HashMap;
use std::convert::Infallible;
use std::os::unix::net::UnixListener as StdListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use assert_cmd::Command;
use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;

/// Answers come in pieces of this size, so that no reader can count on whole lines.
const PIECE: usize = 16;

/// An answer, as status and body.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    status: u16,
    body: Bytes,
}

/// What was asked: `METHOD PATH`, and the body.
pub(crate) type Asked = (String, String);

type Pieces = StreamBody<stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

#[derive(Debug)]
struct Script {
    answers: Mutex<HashMap<String, Vec<Answer>>>,
    asked: Mutex<Vec<Asked>>,
}

/// The fake; it ends with its drop.
#[derive(Debug)]
pub(crate) struct Daemon {
    directory: TempDir,
    script: Arc<Script>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// 200 and JSON.
pub(crate) fn ok(body: &Value) -> Answer {
    Answer { status: 200, body: Bytes::from(body.to_string()) }
}

/// 200 and whatever.
pub(crate) fn raw(body: impl Into<Bytes>) -> Answer {
    Answer { status: 200, body: body.into() }
}

/// An error without a `Status`.
pub(crate) fn foreign(status: u16, body: &'static str) -> Answer {
    Answer { status, body: Bytes::from_static(body.as_bytes()) }
}

/// A `Status` as the API server answers it.
pub(crate) fn refused(code: u16, reason: &str, message: &str) -> Answer {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message, "code": code});
    Answer { status: code, body: Bytes::from(status.to_string()) }
}

/// A successful `Status`.
pub(crate) fn success() -> Answer {
    ok(&json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
}

impl Daemon {
    /// Starts a daemon with these answers; of several to one request, each is given once and the last for ever.
    pub(crate) fn start<const N: usize>(answers: [(&str, Vec<Answer>); N]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = StdListener::bind(directory.path().join("sock")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let answers = answers.into_iter().map(|(request, answers)| (request.to_owned(), answers)).collect();
        let script = Arc::new(Script { answers: Mutex::new(answers), asked: Mutex::default() });
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&script);
        let thread = std::thread::spawn(move || serve(listener, &shared, stopped));
        Self { directory, script, stop: Some(stop), thread: Some(thread) }
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("sock")
    }

    /// The command line, asking this daemon.
    pub(crate) fn imagevol(&self, arguments: &[&str]) -> Command {
        let mut command = super::imagevol();
        command.arg("--socket").arg(self.socket()).args(arguments);
        command
    }

    /// What was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.script.asked.lock().unwrap().clone()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

fn serve(listener: StdListener, script: &Script, stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = UnixListener::from_std(listener).unwrap();
        tokio::select! {
            _ = stopped => {}
            // One connection after the other is enough for one command after the other.
            () = async { loop { connection(listener.accept().await.unwrap().0, script).await } } => {}
        }
    });
}

async fn connection(stream: UnixStream, script: &Script) {
    let service = service_fn(|request| answer(request, script));
    // A command that ends in the middle of an answer is part of the tests.
    http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.unwrap_or_default();
}

async fn answer(request: Request<Incoming>, script: &Script) -> Result<Response<Pieces>, Infallible> {
    let asked = format!("{} {}", request.method(), request.uri());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    script.asked.lock().unwrap().push((asked.clone(), String::from_utf8_lossy(&body).into_owned()));
    let answer = next(script, &asked);
    let pieces: Vec<_> =
        answer.body.chunks(PIECE).map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece)))).collect();
    Ok(Response::builder().status(answer.status).body(StreamBody::new(stream::iter(pieces))).unwrap())
}

fn next(script: &Script, asked: &str) -> Answer {
    let mut answers = script.answers.lock().unwrap();
    match answers.get_mut(asked) {
        Some(answers) if answers.len() > 1 => answers.remove(0),
        Some(answers) => answers[0].clone(),
        None => refused(404, "NotFound", &format!("the server could not find the requested resource: {asked}")),
    }
}
