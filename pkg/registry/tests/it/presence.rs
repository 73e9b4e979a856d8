//! Whether a registry would give a blob.

use http::Method;
use imagevol_api::auth::Credential;
use imagevol_registry::RegistryError;
use imagevol_test_support::image::Image;
use imagevol_test_support::registry::{AuthMode, FakeRegistry, Fault};

use crate::harness::{client, client_for, image, parse, user};

async fn registry() -> (FakeRegistry, Image) {
    let (registry, image) = (FakeRegistry::start().await, image("content"));
    registry.push("team/data", "v1", &image);
    (registry, image)
}

async fn check(registry: &FakeRegistry, repository: &str, image: &Image) -> Result<(), RegistryError> {
    let reference = parse(&registry.reference(repository, "v1"));
    client().check_blob(&reference, &image.layers.first().unwrap().digest, &Credential::Anonymous).await
}

fn methods(registry: &FakeRegistry) -> Vec<(Method, u16)> {
    registry.requests().into_iter().map(|request| (request.method, request.status)).collect()
}

#[tokio::test]
async fn what_is_there_is_asked_for_once_and_not_fetched() {
    let (registry, image) = registry().await;
    check(&registry, "team/data", &image).await.unwrap();
    assert_eq!(methods(&registry), [(Method::HEAD, 200)]);
}

#[tokio::test]
async fn a_blob_of_another_repository_is_not_found() {
    let (registry, image) = registry().await;
    let error = check(&registry, "team/other", &image).await.unwrap_err();
    assert!(matches!(error, RegistryError::NotFound(_)), "{error:?}");
    assert_eq!(methods(&registry), [(Method::HEAD, 404)]);
}

#[tokio::test]
async fn who_may_not_read_the_repository_is_denied() {
    let registry = FakeRegistry::builder().auth(AuthMode::Token).start().await;
    let image = image("content");
    let reference = parse(&registry.push("team/data", "v1", &image));
    registry.add_user("anna", "right");
    registry.add_user("bert", "right");
    registry.protect("team/data", &["anna"]);
    let check = async |who: &Credential| client().check_blob(&reference, &image.layers[0].digest, who).await;
    check(&user("anna", "right")).await.unwrap();
    for other in [user("bert", "right"), user("anna", "wrong"), Credential::Anonymous] {
        let error = check(&other).await.unwrap_err();
        assert!(matches!(error, RegistryError::Denied(_) | RegistryError::Unauthorized(_)), "{error:?}");
    }
}

#[rstest::rstest]
#[case::not_allowed(405)]
#[case::bad_request(400)]
#[case::not_implemented(501)]
#[tokio::test]
async fn a_registry_without_head_is_asked_for_one_byte(#[case] status: u16) {
    let (registry, image) = registry().await;
    registry.faults().always("HEAD ", Fault::status(status));
    check(&registry, "team/data", &image).await.unwrap();
    assert_eq!(methods(&registry), [(Method::HEAD, status), (Method::GET, 206)]);
    assert_eq!(registry.requests()[1].headers["range"], "bytes=0-0");
    let error = check(&registry, "team/other", &image).await.unwrap_err();
    assert!(matches!(error, RegistryError::NotFound(_)), "{error:?}");
}

#[tokio::test]
async fn storage_that_was_told_of_get_alone_is_asked_for_one_byte() {
    let (storage, image) = registry().await;
    let front = FakeRegistry::start().await;
    front.faults().always("/blobs/", Fault::redirect_to(&storage.url()));
    storage.faults().always("HEAD ", Fault::status(403));
    check(&front, "team/data", &image).await.unwrap();
    assert_eq!(methods(&storage), [(Method::HEAD, 403), (Method::GET, 206)]);
}

#[tokio::test]
async fn a_registry_that_fails_for_a_moment_is_asked_again() {
    let (registry, image) = registry().await;
    registry.faults().times(2, "/blobs/", Fault::status(503));
    check(&registry, "team/data", &image).await.unwrap();
    registry.faults().once("/blobs/", Fault::throttle(Some("0")));
    check(&registry, "team/data", &image).await.unwrap();
}

#[tokio::test]
async fn a_web_page_is_no_blob() {
    let (registry, image) = registry().await;
    registry.faults().always("/blobs/", Fault::web_page());
    let error = check(&registry, "team/data", &image).await.unwrap_err();
    assert!(matches!(error, RegistryError::WebPage { .. }), "{error:?}");
}

#[tokio::test]
async fn a_mirror_is_asked_before_the_registry() {
    let ((mirror, image), registry, dir) =
        (registry().await, FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let hosts = format!("server = \"{}\"\n[host.\"{}\"]\n", registry.url(), mirror.url());
    let client = client_for(dir.path(), &registry, &hosts);
    let reference = parse(&registry.reference("team/data", "v1"));
    client.check_blob(&reference, &image.layers[0].digest, &Credential::Anonymous).await.unwrap();
    assert_eq!((mirror.requests().len(), registry.requests().len()), (1, 0));
}
