use imagevol_api::auth::{AuthConfig, Credential};
use imagevol_registry::{Registry, RegistryError};
use imagevol_test_support::registry::{AuthMode, FakeRegistry, Fault, Gate};
use rstest::rstest;
use serde_json::json;

use crate::harness::{amd64, client, image, parse, user};

async fn start(mode: AuthMode) -> FakeRegistry {
    let registry = FakeRegistry::builder().auth(mode).start().await;
    registry.add_user("alice", "hunter2");
    registry.add_user("bob", "letmein");
    registry.protect("private", &["alice"]);
    registry.push("private", "x", &image("secret"));
    registry.push("public", "x", &image("open"));
    registry
}

async fn pull(
    client: &Registry,
    registry: &FakeRegistry,
    repository: &str,
    with: &Credential,
) -> Result<(), RegistryError> {
    let reference = parse(&registry.reference(repository, "x"));
    let resolved = client.resolve(&reference, &amd64(), with).await?;
    client.fetch_small(&reference, &resolved.manifest.config, 1 << 20, with).await.map(drop)
}

#[rstest]
#[case::basic(AuthMode::Basic)]
#[case::token(AuthMode::Token)]
#[tokio::test]
async fn the_right_credentials_open_and_no_others(#[case] mode: AuthMode) {
    let registry = start(mode).await;
    let client = client();
    pull(&client, &registry, "private", &user("alice", "hunter2")).await.unwrap();
    pull(&client, &registry, "public", &Credential::Anonymous).await.unwrap();
    for wrong in [Credential::Anonymous, user("bob", "letmein"), user("alice", "wrong"), user("", "")] {
        let error = pull(&client, &registry, "private", &wrong).await.unwrap_err();
        assert!(matches!(error, RegistryError::Unauthorized(_) | RegistryError::Denied(_)), "{error:?}");
        assert!(error.is_final());
        assert!(!format!("{error} {error:?}").contains("letmein"));
    }
}

#[tokio::test]
async fn a_token_is_asked_for_once_and_kept_per_credential() {
    let registry = start(AuthMode::Token).await;
    registry.protect("private", &["alice", "bob"]);
    let client = client();
    for _ in 0..3 {
        pull(&client, &registry, "private", &user("alice", "hunter2")).await.unwrap();
    }
    assert_eq!(registry.gets("/token"), 1);
    pull(&client, &registry, "private", &user("bob", "letmein")).await.unwrap();
    assert_eq!(registry.gets("/token"), 2);
    pull(&client, &registry, "public", &user("alice", "hunter2")).await.unwrap();
    assert_eq!(registry.gets("/token"), 3);
    let token = registry.requests().into_iter().find(|request| request.path == "/token").unwrap();
    assert_eq!(token.query, "service=fake+registry&scope=repository%3Aprivate%3Apull");
}

#[tokio::test]
async fn many_at_once_share_one_token_request() {
    let registry = start(AuthMode::Token).await;
    let gate = Gate::new();
    registry.faults().always("/token", Fault::Hold(gate.clone()));
    let (client, alice) = (client(), user("alice", "hunter2"));
    let one = || pull(&client, &registry, "private", &alice);
    let all = async { tokio::join!(one(), one(), one(), one()) };
    let opener = async {
        gate.arrived(1).await;
        gate.open();
    };
    let ((a, b, c, d), ()) = tokio::join!(all, opener);
    assert!([a, b, c, d].iter().all(Result::is_ok));
    assert_eq!(registry.gets("/token"), 1);
}

#[tokio::test]
async fn a_revoked_token_is_renewed() {
    let registry = start(AuthMode::Token).await;
    let (client, alice) = (client(), user("alice", "hunter2"));
    pull(&client, &registry, "private", &alice).await.unwrap();
    registry.revoke_tokens();
    pull(&client, &registry, "private", &alice).await.unwrap();
    assert_eq!(registry.gets("/token"), 2);
}

#[tokio::test]
async fn gives_up_after_two_token_rounds() {
    let registry = start(AuthMode::Token).await;
    let error = pull(&client(), &registry, "private", &user("bob", "letmein")).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized(_)), "{error:?}");
    assert_eq!((registry.gets("/token"), registry.gets("/manifests/")), (2, 3));
}

#[tokio::test]
async fn a_wrong_password_is_not_repeated() {
    let registry = start(AuthMode::Basic).await;
    let error = pull(&client(), &registry, "private", &user("alice", "wrong")).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized(_)), "{error:?}");
    assert_eq!(registry.gets("/manifests/"), 2);
}

#[tokio::test]
async fn an_identity_token_is_posted() {
    let registry = start(AuthMode::Token).await;
    registry.add_identity_token("refresh-me", "alice");
    let with = |token: &str| {
        let identity_token = Some(token.into());
        Credential::Auth(AuthConfig { identity_token, ..AuthConfig::default() })
    };
    pull(&client(), &registry, "private", &with("refresh-me")).await.unwrap();
    let posted = registry.requests().into_iter().find(|request| request.path == "/token").unwrap();
    assert_eq!(posted.method, "POST");
    assert!(posted.body.starts_with("grant_type=refresh_token&"), "{}", posted.body);
    let error = pull(&client(), &registry, "private", &with("stale")).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized(_)), "{error:?}");
}

#[tokio::test]
async fn a_registry_token_is_shown_as_it_is() {
    let registry = start(AuthMode::Token).await;
    let registry_token = Some("ready-made".into());
    let credential = Credential::Auth(AuthConfig { registry_token, ..AuthConfig::default() });
    let error = pull(&client(), &registry, "private", &credential).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized(_)), "{error:?}");
    assert_eq!(registry.gets("/token"), 0);
    assert_eq!(registry.requests()[0].headers["authorization"], "Bearer ready-made");
}

#[rstest]
#[case::no_json(Fault::web_page(), "no token document")]
#[case::no_token(Fault::json(200, &json!({})), "has no token")]
#[case::newline(Fault::json(200, &json!({ "token": "a\r\nX: y" })), "characters that no header may hold")]
#[tokio::test]
async fn a_bad_token_reaches_no_header(#[case] fault: Fault, #[case] complaint: &str) {
    let registry = start(AuthMode::Token).await;
    registry.faults().always("/token", fault);
    let error = pull(&client(), &registry, "public", &Credential::Anonymous).await.unwrap_err();
    assert!(error.to_string().contains(complaint), "{error}");
}

#[tokio::test]
async fn a_token_answer_is_read_up_to_its_limit() {
    let registry = start(AuthMode::Token).await;
    registry.faults().always("/token", Fault::Overlong(1 << 20));
    let error = pull(&client(), &registry, "public", &Credential::Anonymous).await.unwrap_err();
    assert!(matches!(error, RegistryError::TooLarge { .. }), "{error:?}");
}

#[tokio::test]
async fn a_token_service_that_is_down_is_no_denial() {
    let registry = start(AuthMode::Token).await;
    registry.faults().always("/token", Fault::status(503));
    let error = pull(&client(), &registry, "public", &Credential::Anonymous).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unavailable(_)), "{error:?}");
    registry.faults().clear();
    registry.faults().times(2, "/token", Fault::status(503));
    pull(&client(), &registry, "public", &Credential::Anonymous).await.unwrap();
}

#[rstest]
#[case("http://169.254.169.254/latest/meta-data")]
#[case("http://auth.example/token")]
#[case("file:///etc/shadow")]
#[case("http://user:password@127.0.0.1/token")]
#[tokio::test]
async fn no_credentials_for_a_stranger(#[case] realm: &str) {
    let registry = start(AuthMode::Token).await;
    let challenge = Fault::Answer {
        status: 401,
        headers: vec![("www-authenticate".to_owned(), format!("Bearer realm=\"{realm}\""))],
        body: bytes::Bytes::new(),
    };
    registry.faults().always("/manifests/", challenge);
    let error = pull(&client(), &registry, "private", &user("alice", "hunter2")).await.unwrap_err();
    assert!(matches!(error, RegistryError::Realm { .. }), "{error:?}");
}

#[tokio::test]
async fn an_echoed_secret_is_blotted_out() {
    let registry = start(AuthMode::Basic).await;
    let (client, alice) = (client(), user("alice", "hunter2"));
    pull(&client, &registry, "private", &alice).await.unwrap();
    let encoded = "YWxpY2U6aHVudGVyMg==";
    registry.faults().always("/manifests/", Fault::error(403, "DENIED", &format!("hunter2 and {encoded}")));
    let error = pull(&client, &registry, "private", &alice).await.unwrap_err();
    assert!(error.to_string().contains("<redacted> and <redacted>"), "{error}");
}
