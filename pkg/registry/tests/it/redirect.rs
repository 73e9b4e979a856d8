use imagevol_api::auth::Credential;
use imagevol_registry::RegistryError;
use imagevol_test_support::registry::{AuthMode, Content, FakeRegistry, Fault};
use rstest::rstest;

use crate::harness::{client, descriptor, parse, read, user};

fn content() -> Content {
    Content::Bytes(bytes::Bytes::from_static(b"somewhere else"))
}

#[rstest]
#[case(301)]
#[case(302)]
#[case(303)]
#[case(307)]
#[case(308)]
#[tokio::test]
async fn another_host_sees_the_range_and_no_credentials(#[case] status: u16) {
    let registry = FakeRegistry::builder().auth(AuthMode::Basic).start().await;
    registry.add_user("alice", "hunter2");
    registry.protect("data", &["alice"]);
    let storage = FakeRegistry::start().await;
    let digest = storage.put_blob("data", content());
    registry.put_blob("data", content());
    registry.faults().once("/blobs/", Fault::IgnoreRange);
    let reference = parse(&registry.reference("data", "x"));
    let alice = user("alice", "hunter2");
    let client = client();
    // The first request teaches the client that this host wants basic authentication.
    read(client.fetch(&reference, &descriptor(&digest, 14), 0, &alice).await.unwrap()).await.unwrap();
    registry.faults().always("/blobs/", Fault::RedirectTo { base: storage.url(), status });
    let stream = client.fetch(&reference, &descriptor(&digest, 14), 5, &alice).await.unwrap();
    assert_eq!(read(stream).await.unwrap(), b"here else"[..].to_vec().split_off(0));
    assert!(registry.requests().last().unwrap().headers.contains_key("authorization"));
    let seen = &storage.requests()[0];
    assert!(!seen.headers.contains_key("authorization"), "{seen:?}");
    assert_eq!(seen.headers["range"], "bytes=5-");
}

#[tokio::test]
async fn credentials_do_not_come_back_after_a_detour() {
    let registry = FakeRegistry::builder().auth(AuthMode::Basic).start().await;
    registry.add_user("alice", "hunter2");
    registry.protect("data", &["alice"]);
    let detour = FakeRegistry::start().await;
    let digest = registry.put_blob("data", content());
    registry.faults().always("GET /v2/", Fault::redirect_to(&detour.url()));
    detour.faults().always("/blobs/", Fault::redirect_to(&format!("{}/back", registry.url())));
    let reference = parse(&registry.reference("data", "x"));
    let stream = client().fetch(&reference, &descriptor(&digest, 14), 0, &user("alice", "hunter2")).await;
    let error = stream.unwrap_err();
    assert!(matches!(error, RegistryError::Unavailable(_)), "{error:?}");
    assert!(registry.requests().iter().all(|request| !request.headers.contains_key("authorization")));
}

#[tokio::test]
async fn a_redirect_targets_challenge_is_not_answered() {
    let registry = FakeRegistry::start().await;
    let storage = FakeRegistry::builder().auth(AuthMode::Token).start().await;
    storage.protect("data", &["alice"]);
    let digest = storage.put_blob("data", content());
    registry.faults().always("/blobs/", Fault::redirect_to(&storage.url()));
    let reference = parse(&registry.reference("data", "x"));
    let error = client().fetch(&reference, &descriptor(&digest, 14), 0, &user("alice", "hunter2")).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unavailable(_)), "{error:?}");
    assert_eq!(storage.gets("/token"), 0);
}

#[rstest]
#[case("http://169.254.169.254")]
#[case("http://example.com")]
#[case("file:///etc")]
#[case("unix:/run/containerd.sock")]
#[tokio::test]
async fn some_ways_are_not_gone(#[case] base: &str) {
    let registry = FakeRegistry::start().await;
    let digest = registry.put_blob("data", content());
    registry.faults().always("/blobs/", Fault::redirect_to(base));
    let reference = parse(&registry.reference("data", "x"));
    let error = client().fetch(&reference, &descriptor(&digest, 14), 0, &Credential::Anonymous).await.unwrap_err();
    assert!(matches!(error, RegistryError::Redirect { .. }), "{error:?}");
    assert!(error.is_final());
}

#[tokio::test]
async fn a_loop_ends() {
    let registry = FakeRegistry::start().await;
    let digest = registry.put_blob("data", content());
    registry.faults().always("/blobs/", Fault::redirect_to(&registry.url()));
    let reference = parse(&registry.reference("data", "x"));
    let error = client().fetch(&reference, &descriptor(&digest, 14), 0, &Credential::Anonymous).await.unwrap_err();
    assert!(matches!(error, RegistryError::Redirect { .. }), "{error:?}");
    assert_eq!(registry.gets("/blobs/"), 11);
}
