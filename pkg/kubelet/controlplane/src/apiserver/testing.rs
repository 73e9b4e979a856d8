//! A fake API server, and the door to it without a network: time can be paused.

use std::sync::Arc;

use http_body_util::BodyExt as _;
use kube::Client;
use tokio::sync::watch;

use imagevol_base::Supervisor;
use imagevol_test_support::apiserver::FakeApiServer;

use super::server::ApiServer;

/// The two, and a supervisor for what talks to them.
pub(crate) struct Fixture {
    pub(crate) fake: FakeApiServer,
    pub(crate) server: ApiServer,
    pub(crate) supervisor: Supervisor,
    renew: watch::Sender<Client>,
}

impl Fixture {
    /// An empty API server.
    pub(crate) fn new() -> Self {
        let fake = FakeApiServer::in_process();
        let (server, renew) = ApiServer::of(client(&fake));
        Self { fake, server, supervisor: Supervisor::new("test"), renew }
    }

    /// As when credentials have changed.
    pub(crate) fn renew_client(&self) {
        self.renew.send_replace(client(&self.fake));
    }
}

fn client(fake: &FakeApiServer) -> Client {
    let fake = fake.clone();
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let fake = fake.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let answer = fake.answer(http::Request::from_parts(parts, body)).await?;
            Ok::<_, tower::BoxError>(answer)
        }
    });
    Client::new(service, "default")
}

/// Runs until `done` says so. In paused time waiting costs nothing; 20 minutes of it are for ever.
pub(crate) async fn until(done: impl Fn() -> bool) {
    let looking = async {
        while !done() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(std::time::Duration::from_mins(20), looking).await.is_ok(), "it never happened");
}

/// Waits for a value that satisfies.
pub(crate) async fn when<T: Clone>(receiver: &mut watch::Receiver<Arc<T>>, wanted: impl Fn(&T) -> bool) -> Arc<T> {
    let waiting = receiver.wait_for(|value| wanted(value));
    let found = tokio::time::timeout(std::time::Duration::from_mins(20), waiting).await;
    Arc::clone(&found.expect("it never happened").expect("the task has ended"))
}
