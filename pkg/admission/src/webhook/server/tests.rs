use http_body_util::Empty;
use jiff::Timestamp;
use rstest::rstest;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::super::certificate::{Names, Pair, provider};
use super::super::serving::{Serving, tls};
use super::*;

fn server(ready: bool) -> (Server, CancellationToken) {
    let stopping = CancellationToken::new();
    (Server::new(Arc::new(AtomicBool::new(ready)), stopping.clone()), stopping)
}

fn review() -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "u", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "operation": "CREATE",
            "object": {"spec": {"volumes": [{"name": "v", "image": {"reference": "r:1"}}]}},
        },
    })
}

fn request(method: &str, path: &str, media_type: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, media_type);
    request.body(Full::new(body.into())).unwrap()
}

async fn text(answer: Answer) -> String {
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[rstest]
#[case::get("GET", "/mutate", "application/json", StatusCode::METHOD_NOT_ALLOWED, "GET is not for this path")]
#[case::post_health(
    "POST",
    "/healthz",
    "application/json",
    StatusCode::METHOD_NOT_ALLOWED,
    "POST is not for this path"
)]
#[case::path("POST", "/validate", "application/json", StatusCode::NOT_FOUND, "no such path")]
#[case::yaml(
    "POST",
    "/mutate",
    "application/yaml",
    StatusCode::UNSUPPORTED_MEDIA_TYPE,
    "the body has to be application/json"
)]
#[case::body(
    "POST",
    "/mutate",
    "application/json; charset=utf-8",
    StatusCode::BAD_REQUEST,
    "the body is no AdmissionReview"
)]
#[tokio::test]
async fn refuses(
    #[case] method: &str,
    #[case] path: &str,
    #[case] media_type: &str,
    #[case] status: StatusCode,
    #[case] expected: &str,
) {
    let answer = server(true).0.answer(request(method, path, media_type, "x")).await;
    assert_eq!((answer.status(), text(answer).await), (status, format!("{expected}\n")));
}

#[tokio::test]
async fn reviews_by_path() {
    let (server, _stopping) = server(true);
    for (path, patched) in [("/mutate?timeout=10s", true), ("/mutate/annotated?timeout=10s", false)] {
        let answer = server.answer(request("POST", path, "application/json", review().to_string())).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let answer: Value = serde_json::from_str(&text(answer).await).unwrap();
        assert_eq!(answer["response"].get("patch").is_some(), patched, "{answer}");
    }
}

#[tokio::test]
async fn bodies_are_bounded() {
    let (server, _stopping) = server(true);
    let most = server.answer(request("POST", "/mutate", "application/json", vec![b' '; MAX_BODY])).await;
    assert_eq!(most.status(), StatusCode::BAD_REQUEST, "read whole, and no review");
    let more = server.answer(request("POST", "/mutate", "application/json", vec![b' '; MAX_BODY + 1])).await;
    assert_eq!(more.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_given_up() {
    let (server, _stopping) = server(true);
    let never =
        http_body_util::StreamBody::new(tokio_stream::pending::<Result<hyper::body::Frame<Bytes>, Infallible>>());
    let request = Request::builder().method("POST").uri("/mutate").header(header::CONTENT_TYPE, "application/json");
    let answer = server.answer(request.body(never).unwrap()).await;
    assert_eq!(
        (answer.status(), text(answer).await),
        (StatusCode::REQUEST_TIMEOUT, "the request took too long\n".to_owned())
    );
}

#[rstest]
#[case::before_it_is_trusted(false, false, "the API server does not trust the certificate yet\n")]
#[case::running(true, false, "ok\n")]
#[case::stopping(true, true, "stopping\n")]
#[tokio::test]
async fn readiness_says_why_not(#[case] ready: bool, #[case] stop: bool, #[case] expected: &str) {
    let (server, stopping) = server(ready);
    if stop {
        stopping.cancel();
    }
    let get = |path: &str| Request::builder().uri(path).body(Empty::<Bytes>::new()).unwrap();
    assert_eq!(text(server.answer(get("/readyz")).await).await, expected);
    let alive = server.answer(get("/healthz")).await;
    assert_eq!(alive.headers().get(header::CONNECTION).is_some(), stop, "who is told to stop keeps no connection");
    assert_eq!(text(alive).await, "ok\n");
}

/// A listening webhook and what it is trusted by.
struct Running {
    address: std::net::SocketAddr,
    serving: Arc<Serving>,
    stopped: CancellationToken,
    supervisor: Supervisor,
}

fn pair() -> Pair {
    Pair::make(&Names::parse(["w.n.svc".to_owned()]).unwrap(), Timestamp::now()).unwrap()
}

impl Running {
    async fn start(pair: &Pair) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stopped, supervisor) = (CancellationToken::new(), Supervisor::new("test"));
        let serving = Arc::new(Serving::new(pair).unwrap());
        let acceptor = TlsAcceptor::from(Arc::new(tls(Arc::clone(&serving)).unwrap()));
        let server = Arc::new(Server::new(Arc::new(AtomicBool::new(true)), supervisor.token()));
        supervisor.spawn("webhook", listen(listener, acceptor, server, stopped.clone(), supervisor.clone()));
        Self { address, serving, stopped, supervisor }
    }

    async fn connect(&self, trusted: &[&Pair]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        for pair in trusted {
            roots.add(CertificateDer::from_pem_slice(pair.authority.as_bytes()).unwrap()).unwrap();
        }
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let client = builder.with_root_certificates(roots).with_no_client_auth();
        let stream = TcpStream::connect(self.address).await?;
        TlsConnector::from(Arc::new(client)).connect(ServerName::try_from("w.n.svc").unwrap(), stream).await
    }
}

/// Asks once and reads the answer's head.
async fn ask(stream: &mut TlsStream<TcpStream>) -> String {
    let body = review().to_string();
    let head = format!(
        "POST /mutate HTTP/1.1\r\nHost: w\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"}}") {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "{}", String::from_utf8_lossy(&answer));
    }
    String::from_utf8(answer).unwrap().split_once("\r\n\r\n").unwrap().0.to_owned()
}

#[tokio::test]
async fn connections_go_on_over_a_new_certificate() {
    let (old, new) = (pair(), pair());
    let running = Running::start(&old).await;
    let mut first = running.connect(&[&old]).await.unwrap();
    assert!(ask(&mut first).await.starts_with("HTTP/1.1 200"));
    running.serving.serve(&new).unwrap();
    assert!(ask(&mut first).await.starts_with("HTTP/1.1 200"), "an open connection does not notice");
    assert!(running.connect(&[&old]).await.is_err(), "who was not told");
    let mut second = running.connect(&[&old, &new]).await.unwrap();
    assert!(ask(&mut second).await.starts_with("HTTP/1.1 200"));
    running.stopped.cancel();
    assert!(running.supervisor.shut_down(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn answers_while_it_drains_and_ends_its_connections_then() {
    let pair = pair();
    let running = Running::start(&pair).await;
    let (mut idle, mut busy) = (running.connect(&[&pair]).await.unwrap(), running.connect(&[&pair]).await.unwrap());
    assert!(ask(&mut idle).await.starts_with("HTTP/1.1 200"));
    running.supervisor.cancel();
    let head = ask(&mut busy).await.to_ascii_lowercase();
    assert!(head.contains("connection: close"), "{head}");
    assert!(ask(&mut running.connect(&[&pair]).await.unwrap()).await.starts_with("HTTP/1.1 200"), "still taken");
    running.stopped.cancel();
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);
    assert!(running.supervisor.shut_down(Duration::from_secs(5)).await);
    assert!(running.connect(&[&pair]).await.is_err());
}

#[tokio::test]
async fn what_speaks_no_tls_disturbs_nobody() {
    let pair = pair();
    let running = Running::start(&pair).await;
    let mut stranger = TcpStream::connect(running.address).await.unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let _silent = TcpStream::connect(running.address).await.unwrap();
    assert!(ask(&mut running.connect(&[&pair]).await.unwrap()).await.starts_with("HTTP/1.1 200"));
    assert_eq!(running.supervisor.panics(), 0);
}
