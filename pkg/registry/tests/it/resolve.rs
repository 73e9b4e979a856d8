use imagevol_api::auth::Credential;
use imagevol_registry::{Limits, ManifestKind, Platform, RegistryConfig, RegistryError, Warning};
use imagevol_test_support::image::{ImageBuilder, Index, OCI_INDEX, OCI_MANIFEST};
use imagevol_test_support::registry::{FakeRegistry, Fault};
use rstest::rstest;
use serde_json::json;

use crate::harness::{amd64, client, client_with, config, image, parse, resolve};

#[tokio::test]
async fn a_tag_becomes_a_manifest() {
    let registry = FakeRegistry::start().await;
    let image = image("2");
    let reference = registry.push("data", "x", &image);
    let resolved = resolve(&client(), &reference).await.unwrap();
    assert_eq!(resolved.manifest_digest, image.digest);
    assert_eq!(resolved.root_digest, image.digest);
    assert_eq!(resolved.manifest_bytes, image.manifest);
    assert_eq!(resolved.manifest.layers[0].digest, image.layers[0].digest);
    assert_eq!(resolved.manifest.kind(), ManifestKind::Image);
    assert_eq!(resolved.source.host, registry.host());
    assert_eq!(resolved.warnings, []);
}

#[tokio::test]
async fn a_digest_wins_over_a_tag_and_no_tag_means_latest() {
    let registry = FakeRegistry::start().await;
    let (old, new) = (image("old"), image("new"));
    registry.push("data", "x", &old);
    registry.push("data", "x", &new);
    registry.push("data", "latest", &new);
    let both = format!("{}/data:x@{}", registry.host(), old.digest);
    assert_eq!(resolve(&client(), &both).await.unwrap().manifest_digest, old.digest);
    let bare = resolve(&client(), &format!("{}/data", registry.host())).await.unwrap();
    assert_eq!((bare.manifest_digest, bare.reference.tag()), (new.digest, Some("latest")));
}

#[tokio::test]
async fn asks_for_manifests_only_and_for_no_encoding() {
    let registry = FakeRegistry::start().await;
    let reference = registry.push("data", "x", &image("2"));
    resolve(&client(), &reference).await.unwrap();
    let requests = registry.requests();
    assert_eq!(requests.len(), 1, "no request besides the manifest's own");
    assert!(requests[0].headers["accept"].to_str().unwrap().contains(OCI_INDEX));
    assert!(!requests[0].headers.contains_key("accept-encoding"));
    assert!(requests[0].headers["user-agent"].to_str().unwrap().starts_with("imagevol/"));
}

#[tokio::test]
async fn an_index_gives_the_best_manifest() {
    let registry = FakeRegistry::start().await;
    let arm = ImageBuilder::new().platform("linux", "arm64", Some("v8")).build();
    let v1 = ImageBuilder::new().platform("linux", "amd64", None).build();
    let v3 = ImageBuilder::new().platform("linux", "amd64", Some("v3")).build();
    let attestation = ImageBuilder::new().platform("unknown", "unknown", None).build();
    let index = Index::new([attestation, arm.clone(), v1.clone(), v3.clone()]);
    let reference = parse(&registry.push_index("data", "x", &index));
    let cases = [
        (amd64(), &v1),
        (Platform::new("linux", "amd64", Some("v4")), &v3),
        (Platform::new("linux", "aarch64", None), &arm),
    ];
    for (platform, expected) in cases {
        let resolved = client().resolve(&reference, &platform, &Credential::Anonymous).await.unwrap();
        assert_eq!(resolved.manifest_digest, expected.digest, "{platform}");
        assert_eq!(resolved.root_digest, index.digest);
    }
}

#[tokio::test]
async fn says_which_platforms_there_are() {
    let registry = FakeRegistry::start().await;
    let arm = ImageBuilder::new().platform("linux", "arm", Some("v6")).build();
    let windows = ImageBuilder::new().platform("windows", "amd64", None).build();
    let attestation = ImageBuilder::new().platform("unknown", "unknown", None).build();
    let reference = registry.push_index("data", "x", &Index::new([arm.clone(), windows, attestation]));
    let error = resolve(&client(), &reference).await.unwrap_err();
    let expected = format!("no image for platform linux/amd64 in {reference}; available: linux/arm/v6, windows/amd64");
    assert_eq!(error.to_string(), expected);
    assert!(error.is_final());
    let direct = registry.reference_at("data", &arm.digest);
    assert_eq!(resolve(&client(), &direct).await.unwrap().manifest_digest, arm.digest, "asked for by its own name");
}

#[tokio::test]
async fn walks_nested_indexes_and_no_deeper_than_four() {
    let registry = FakeRegistry::start().await;
    let wanted = image("2").without_platform();
    let mut index = Index::new([wanted.clone()]);
    for depth in 1..=4 {
        let reference = registry.push_index("data", &format!("depth{depth}"), &index);
        assert_eq!(resolve(&client(), &reference).await.unwrap().manifest_digest, wanted.digest, "{depth}");
        index = Index::nested([], [index]);
    }
    let error = resolve(&client(), &registry.push_index("data", "depth5", &index)).await.unwrap_err();
    assert!(matches!(error, RegistryError::Manifest { .. }), "{error}");
    assert!(error.is_final());
}

#[tokio::test]
async fn visits_each_nested_index_once() {
    let registry = FakeRegistry::start().await;
    let other = ImageBuilder::new().platform("linux", "s390x", None).build();
    let mut index = Index::new([other]);
    for _ in 0..3 {
        index = Index::nested([], [index.clone(), index]);
    }
    let reference = registry.push_index("data", "x", &index);
    let error = resolve(&client(), &reference).await.unwrap_err();
    assert!(matches!(error, RegistryError::PlatformNotFound { .. }), "{error}");
    assert_eq!(registry.gets("/manifests/"), 4);
}

#[rstest]
#[case(404, "MANIFEST_UNKNOWN", "manifest unknown", true)]
#[case(403, "DENIED", "no", true)]
#[case(451, "", "", true)]
#[case(500, "UNKNOWN", "unknown error", false)]
#[case(429, "TOOMANYREQUESTS", "slow down", false)]
#[tokio::test]
async fn tells_final_errors_from_passing_ones(
    #[case] status: u16,
    #[case] code: &str,
    #[case] message: &str,
    #[case] is_final: bool,
) {
    let registry = FakeRegistry::start().await;
    registry.faults().always("/manifests/", Fault::error(status, code, message));
    let error = resolve(&client(), &registry.reference("data", "x")).await.unwrap_err();
    assert_eq!(error.is_final(), is_final, "{error}");
    assert_eq!(registry.gets("/manifests/"), if is_final { 1 } else { 4 });
}

#[tokio::test]
async fn names_host_status_and_reason() {
    let registry = FakeRegistry::start().await;
    let error = resolve(&client(), &registry.reference("data", "x")).await.unwrap_err();
    let expected =
        format!("registry {}: manifest unknown (404 Not Found): repository \"data\", tag \"x\"", registry.host());
    assert_eq!(error.to_string(), expected);
    assert!(matches!(error, RegistryError::NotFound(_)));
}

#[tokio::test]
async fn a_registry_that_is_down_is_unavailable() {
    let registry = FakeRegistry::start().await;
    let reference = registry.push("data", "x", &image("2"));
    registry.stop().await;
    let client = client();
    let error = resolve(&client, &reference).await.unwrap_err();
    assert!(matches!(error, RegistryError::Connect { .. }), "{error:?}");
    assert!(error.is_unavailable() && !error.is_final());
    registry.start_again().await;
    resolve(&client, &reference).await.unwrap();
}

#[tokio::test]
async fn tries_again_after_passing_errors() {
    let registry = FakeRegistry::start().await;
    let reference = registry.push("data", "x", &image("2"));
    registry.faults().once("/manifests/", Fault::status(503));
    registry.faults().once("/manifests/", Fault::throttle(Some("0")));
    resolve(&client(), &reference).await.unwrap();
    assert_eq!(registry.gets("/manifests/"), 3);
}

#[tokio::test]
async fn a_long_retry_after_is_handed_up() {
    let registry = FakeRegistry::start().await;
    registry.faults().always("/manifests/", Fault::throttle(Some("3600")));
    let error = resolve(&client(), &registry.reference("data", "x")).await.unwrap_err();
    assert_eq!(error.retry_after().unwrap().as_secs(), 3600);
    assert_eq!(registry.gets("/manifests/"), 1);
}

#[tokio::test]
async fn other_bytes_than_the_digest_promises_are_refused() {
    let registry = FakeRegistry::start().await;
    let image = image("2");
    registry.push("data", "x", &image);
    registry.faults().always("/manifests/", Fault::Corrupt(20));
    let error = resolve(&client(), &registry.reference_at("data", &image.digest)).await.unwrap_err();
    assert!(matches!(error, RegistryError::DigestMismatch { .. }), "{error}");
    assert!(error.is_final());
}

#[tokio::test]
async fn a_header_with_another_digest_is_reported_and_the_body_used() {
    let registry = FakeRegistry::start().await;
    let reference = registry.push("data", "x", &image("2"));
    let said = format!("sha256:{}", "0".repeat(64));
    registry.faults().always("/manifests/", Fault::Header("docker-content-digest".to_owned(), said.clone()));
    let resolved = resolve(&client(), &reference).await.unwrap();
    let actual = resolved.manifest_digest;
    assert_eq!(resolved.warnings, [Warning::ContentDigest { host: registry.host(), said, actual }]);
}

#[tokio::test]
async fn a_login_page_is_no_manifest() {
    let registry = FakeRegistry::start().await;
    registry.faults().always("/manifests/", Fault::web_page());
    let error = resolve(&client(), &registry.reference("data", "x")).await.unwrap_err();
    assert!(matches!(error, RegistryError::WebPage { .. }), "{error}");
    assert!(!error.is_final());
}

#[rstest]
#[case::declared(false)]
#[case::endless(true)]
#[tokio::test]
async fn a_manifest_is_read_up_to_its_limit(#[case] chunked: bool) {
    let registry = FakeRegistry::start().await;
    let reference = registry.push("data", "x", &image("2"));
    registry.faults().always("/manifests/", Fault::Overlong(1024 * 1024));
    if chunked {
        registry.faults().always("/manifests/", Fault::NoLength);
    }
    let limits = Limits { manifest: 4096, ..Limits::default() };
    let client = client_with(RegistryConfig { limits, ..config() });
    let error = resolve(&client, &reference).await.unwrap_err();
    assert!(matches!(error, RegistryError::TooLarge { limit: 4096, .. }), "{error}");
}

#[tokio::test]
async fn header_and_document_must_agree() {
    let registry = FakeRegistry::start().await;
    let image = image("2");
    registry.put_manifest("data", "x", OCI_INDEX, image.manifest.clone());
    let error = resolve(&client(), &registry.reference("data", "x")).await.unwrap_err();
    assert!(matches!(error, RegistryError::Manifest { .. }), "{error}");
}

#[tokio::test]
async fn an_index_that_lies_about_an_entry_is_refused() {
    let registry = FakeRegistry::start().await;
    let image = image("2");
    registry.put_image("data", &image);
    for (tag, media_type, size) in [("size", OCI_MANIFEST, 7), ("type", OCI_INDEX, image.manifest.len())] {
        let entry = json!({ "mediaType": media_type, "digest": image.digest, "size": size });
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry] });
        registry.put_manifest("data", tag, OCI_INDEX, index.to_string());
        let error = resolve(&client(), &registry.reference("data", tag)).await.unwrap_err();
        assert!(matches!(error, RegistryError::Manifest { .. }), "{tag}: {error}");
    }
}

#[tokio::test]
async fn docker_images_and_artifacts_resolve() {
    let registry = FakeRegistry::start().await;
    let docker = registry.push("data", "docker", &ImageBuilder::new().docker().build());
    assert_eq!(resolve(&client(), &docker).await.unwrap().manifest.kind(), ManifestKind::Image);
    let artifact = ImageBuilder::artifact("application/vnd.test").file("file", "text/plain", "1").build();
    let resolved = resolve(&client(), &registry.push("data", "artifact", &artifact)).await.unwrap();
    assert_eq!(resolved.manifest.kind(), ManifestKind::Artifact);
    assert_eq!(resolved.manifest.artifact_type.as_deref(), Some("application/vnd.test"));
    assert_eq!(resolved.manifest.layers[0].annotations["org.opencontainers.image.title"], "file");
}
