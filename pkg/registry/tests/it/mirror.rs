use imagevol_api::auth::Credential;
use imagevol_registry::{RegistryError, Role};
use imagevol_test_support::registry::{AuthMode, FakeRegistry, Fault};

use crate::harness::{amd64, client_for, image, parse, resolve, user};

fn mirrors(mirrors: &[&FakeRegistry]) -> String {
    let sections: Vec<String> = mirrors.iter().map(|mirror| format!("[host.\"{}\"]", mirror.url())).collect();
    sections.join("\n")
}

#[tokio::test]
async fn mirrors_are_asked_in_order_and_told_the_name() {
    let (origin, first, second) =
        (FakeRegistry::start().await, FakeRegistry::start().await, FakeRegistry::start().await);
    let image = image("2");
    second.push("data", "x", &image);
    let dir = tempfile::tempdir().unwrap();
    let client = client_for(dir.path(), &origin, &mirrors(&[&first, &second]));
    let reference = origin.reference("data", "x");
    let resolved = resolve(&client, &reference).await.unwrap();
    assert_eq!(resolved.manifest_digest, image.digest);
    assert_eq!((resolved.source.host, resolved.source.role), (second.host(), Role::Mirror));
    assert_eq!((first.gets(""), second.gets(""), origin.gets("")), (1, 1, 0));
    let told: String = second.requests()[0].query.replace("%3A", ":");
    assert_eq!(told, format!("ns={}", origin.host()));
    let config =
        client.fetch_small(&parse(&reference), &resolved.manifest.config, 1 << 20, &Credential::Anonymous).await;
    assert_eq!(config.unwrap(), image.config.bytes);
}

#[tokio::test]
async fn a_mirror_below_a_path_is_asked_there() {
    let (origin, mirror) = (FakeRegistry::start().await, FakeRegistry::start().await);
    mirror.push("data", "x", &image("2"));
    let dir = tempfile::tempdir().unwrap();
    let client = client_for(dir.path(), &origin, &format!("[host.\"{}/cache/hub\"]\n", mirror.url()));
    resolve(&client, &origin.reference("data", "x")).await.unwrap();
    assert_eq!(mirror.requests()[0].path, "/cache/hub/v2/data/manifests/x");
}

#[tokio::test]
async fn whatever_fails_on_a_mirror_the_registry_decides() {
    let (origin, mirror) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let image = image("2");
    origin.push("data", "x", &image);
    mirror.push("data", "x", &image);
    let dir = tempfile::tempdir().unwrap();
    let client = client_for(dir.path(), &origin, &mirrors(&[&mirror]));
    let digest = origin.reference_at("data", &image.digest);
    for fault in [
        Fault::status(404),
        Fault::status(500),
        Fault::status(403),
        Fault::web_page(),
        Fault::Corrupt(3),
        Fault::Hangup,
    ] {
        mirror.faults().clear();
        mirror.faults().always("/manifests/", fault.clone());
        let resolved = resolve(&client, &digest).await.unwrap();
        assert_eq!(resolved.source.role, Role::Registry, "{fault:?}");
    }
    mirror.stop().await;
    resolve(&client, &digest).await.unwrap();
    let error = resolve(&client, &origin.reference("data", "absent")).await.unwrap_err();
    assert!(matches!(error, RegistryError::NotFound(_)), "{error:?}");
    assert!(error.to_string().contains(&origin.host()));
}

#[tokio::test]
async fn capabilities_are_kept_to() {
    let (origin, mirror) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let image = image("2");
    origin.push("data", "x", &image);
    mirror.push("data", "x", &image);
    let dir = tempfile::tempdir().unwrap();
    let hosts = format!("[host.\"{}\"]\ncapabilities = [\"pull\"]\n", mirror.url());
    let client = client_for(dir.path(), &origin, &hosts);
    let reference = parse(&origin.reference("data", "x"));
    let resolved = client.resolve(&reference, &amd64(), &Credential::Anonymous).await.unwrap();
    assert_eq!((origin.gets("/manifests/"), mirror.gets("/manifests/")), (1, 0));
    client.fetch_small(&reference, &resolved.manifest.config, 1 << 20, &Credential::Anonymous).await.unwrap();
    assert_eq!((origin.gets("/blobs/"), mirror.gets("/blobs/")), (0, 1));
}

#[tokio::test]
async fn a_mirror_sees_no_credentials() {
    let origin = FakeRegistry::builder().auth(AuthMode::Basic).start().await;
    let mirror = FakeRegistry::builder().auth(AuthMode::Basic).start().await;
    for registry in [&origin, &mirror] {
        registry.add_user("alice", "hunter2");
        registry.protect("data", &["alice"]);
        registry.push("data", "x", &image("2"));
    }
    let dir = tempfile::tempdir().unwrap();
    let client = client_for(dir.path(), &origin, &mirrors(&[&mirror]));
    let reference = parse(&origin.reference("data", "x"));
    let resolved = client.resolve(&reference, &amd64(), &user("alice", "hunter2")).await.unwrap();
    assert_eq!(resolved.source.host, origin.host());
    assert!(mirror.requests().iter().all(|request| !request.headers.contains_key("authorization")));
}

#[tokio::test]
async fn a_mirror_that_served_wrong_bytes_is_asked_last() {
    let (origin, mirror) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let image = image("2");
    origin.push("data", "x", &image);
    mirror.push("data", "x", &image);
    mirror.faults().always("/blobs/", Fault::Corrupt(3));
    let dir = tempfile::tempdir().unwrap();
    let client = client_for(dir.path(), &origin, &mirrors(&[&mirror]));
    let reference = parse(&origin.reference("data", "x"));
    let resolved = resolve(&client, &reference.to_string()).await.unwrap();
    let get = || client.fetch_small(&reference, &resolved.manifest.config, 1 << 20, &Credential::Anonymous);
    assert!(matches!(get().await, Err(RegistryError::DigestMismatch { .. })));
    assert_eq!(get().await.unwrap(), image.config.bytes);
    assert_eq!((origin.gets("/blobs/"), mirror.gets("/blobs/")), (1, 1));
}

#[tokio::test]
async fn a_bad_hosts_file_is_named() {
    let origin = FakeRegistry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let client = client_for(dir.path(), &origin, "override_path = true\n");
    let error = resolve(&client, &origin.reference("data", "x")).await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.ends_with("hosts.toml: override_path is not supported yet"), "{source}");
    assert!(!error.is_final(), "the node's owner can mend it");
    std::fs::write(dir.path().join(origin.host()).join("hosts.toml"), "").unwrap();
    let error = resolve(&client, &origin.reference("data", "x")).await.unwrap_err();
    assert!(matches!(error, RegistryError::NotFound(_)), "the file is read again: {error:?}");
}
