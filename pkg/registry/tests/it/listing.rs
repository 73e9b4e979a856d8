use imagevol_api::auth::Credential;
use imagevol_registry::RegistryError;
use imagevol_test_support::image::ImageBuilder;
use imagevol_test_support::registry::{AuthMode, FakeRegistry};
use rstest::rstest;
use serde_json::json;

use crate::harness::{client, client_for, image, parse, user};

#[rstest]
#[case::open(AuthMode::Open)]
#[case::basic(AuthMode::Basic)]
#[case::token(AuthMode::Token)]
#[tokio::test]
async fn lists_tags_with_the_callers_own_credentials(#[case] mode: AuthMode) {
    let registry = FakeRegistry::builder().auth(mode).start().await;
    registry.add_user("alice", "hunter2");
    registry.protect("data", &["alice"]);
    for number in 0..1003 {
        registry.put_manifest("data", &format!("v{number:04}"), "application/json", "{}");
    }
    let (client, reference) = (client(), parse(&registry.reference("data", "x")));
    let tags = client.tags(&reference, &user("alice", "hunter2")).await.unwrap();
    assert_eq!(tags.len(), 1003);
    assert_eq!((tags[0].as_str(), tags[1002].as_str()), ("v0000", "v1002"));
    let stranger = client.tags(&reference, &Credential::Anonymous).await;
    assert_eq!(stranger.is_ok(), mode == AuthMode::Open, "{stranger:?}");
}

#[tokio::test]
async fn an_absent_repository_is_not_found() {
    let registry = FakeRegistry::start().await;
    let error = client().tags(&parse(&registry.reference("data", "x")), &Credential::Anonymous).await.unwrap_err();
    assert!(matches!(error, RegistryError::NotFound(_)), "{error:?}");
}

#[tokio::test]
async fn finds_what_refers_to_a_manifest() {
    let registry = FakeRegistry::builder().auth(AuthMode::Token).start().await;
    let subject = image("2");
    registry.push("data", "x", &subject);
    let refers = |artifact_type: &str| {
        ImageBuilder::artifact(artifact_type).field("subject", subject.descriptor()).annotate("n", "1").build()
    };
    let (signature, sbom) = (refers("application/vnd.signature"), refers("application/vnd.sbom"));
    registry.put_image("data", &signature);
    registry.put_image("data", &sbom);
    let (client, reference) = (client(), parse(&registry.reference("data", "x")));
    let all = client.referrers(&reference, &subject.digest, None, &Credential::Anonymous).await.unwrap();
    assert_eq!(all.len(), 2);
    let wanted = Some("application/vnd.sbom");
    let found = client.referrers(&reference, &subject.digest, wanted, &Credential::Anonymous).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0].descriptor.digest, found[0].artifact_type.as_deref()), (&sbom.digest, wanted));
    assert_eq!(json!(found[0].descriptor.size), json!(sbom.manifest.len()));
}

#[tokio::test]
async fn a_registry_below_a_path_is_not_listed() {
    let registry = FakeRegistry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let client = client_for(dir.path(), &registry, &format!("server = \"{}/path\"\n", registry.url()));
    let error = client.tags(&parse(&registry.reference("data", "x")), &Credential::Anonymous).await.unwrap_err();
    assert!(matches!(error, RegistryError::ListingBelowPath { .. }), "{error:?}");
}
