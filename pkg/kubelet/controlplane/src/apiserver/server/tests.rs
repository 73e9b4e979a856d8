use std::fs;

use imagevol_test_support::apiserver::FakeApiServer;

use super::super::object::SECRETS;
use super::super::testing::until;
use super::*;

/// A server that wants a token, and the kubeconfig with another, over a real connection.
async fn served(dir: &std::path::Path) -> (FakeApiServer, ApiServer, Supervisor) {
    imagevol_test_support::install_crypto();
    let fake = FakeApiServer::start().await;
    fake.require_token("new");
    fs::write(dir.join("kubeconfig"), fake.kubeconfig_with("{token: old}")).unwrap();
    let supervisor = Supervisor::new("test");
    let access = Access::Kubeconfig(dir.join("kubeconfig"));
    let server = ApiServer::connect(access, &supervisor).await.unwrap();
    (fake, server, supervisor)
}

async fn ask(server: &ApiServer) -> Result<Option<serde_json::Value>, RequestError> {
    server.find(SECRETS.of("a", "one").get()?).await
}

#[tokio::test]
async fn takes_up_new_credentials() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, server, supervisor) = served(dir.path()).await;
    let error = ask(&server).await.unwrap_err();
    assert!(matches!(error.source, RequestFault::Unauthorized) && error.is_retryable(), "{error:?}");
    let mut clients = server.clients();
    fs::write(dir.path().join("new"), fake.kubeconfig_with("{token: new}")).unwrap();
    fs::rename(dir.path().join("new"), dir.path().join("kubeconfig")).unwrap();
    tokio::time::pause();
    ApiServer::renewed(&mut clients).await;
    tokio::time::resume();
    assert_eq!(ask(&server).await.unwrap(), None);
    let shown: Vec<_> = fake.requests().into_iter().map(|request| request.authorization.unwrap()).collect();
    assert_eq!(shown, ["Bearer old", "Bearer new"]);
    assert_eq!(fake.requests()[1].user_agent.as_deref(), Some(concat!("imagevold/", env!("CARGO_PKG_VERSION"))));
    assert!(supervisor.shut_down(Duration::from_secs(10)).await);
}

#[tokio::test]
async fn keeps_the_old_ones_while_new_ones_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, server, _supervisor) = served(dir.path()).await;
    fake.require_token("old");
    fs::write(dir.path().join("kubeconfig"), "{").unwrap();
    tokio::time::pause();
    tokio::time::sleep(3 * CREDENTIALS_CHECK).await;
    tokio::time::resume();
    assert_eq!(ask(&server).await.unwrap(), None);
}

#[tokio::test]
async fn tells_an_absent_server_from_one_that_answers() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, server, _supervisor) = served(dir.path()).await;
    fake.require_token("old");
    fake.stop().await;
    let error = ask(&server).await.unwrap_err();
    assert!(matches!(error.source, RequestFault::Unreachable(_)), "{error:?}");
    assert_eq!(error.to_string(), "cannot get secrets a/one");
    fake.start_again().await;
    assert_eq!(ask(&server).await.unwrap(), None);
    until(|| fake.requests().len() == 1).await;
}
