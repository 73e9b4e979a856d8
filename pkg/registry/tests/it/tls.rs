use std::net::{Ipv6Addr, SocketAddr};

use imagevol_registry::RegistryError;
use imagevol_test_support::registry::FakeRegistry;

use crate::harness::{client, client_for, image, resolve};

#[tokio::test]
async fn https_needs_a_certificate_that_is_trusted() {
    let registry = FakeRegistry::builder().tls().start().await;
    let reference = registry.push("data", "x", &image("2"));
    let dir = tempfile::tempdir().unwrap();
    let server = format!("server = \"{}\"\n", registry.url());
    let distrusting = client_for(dir.path(), &registry, &server);
    let error = resolve(&distrusting, &reference).await.unwrap_err();
    assert!(matches!(error, RegistryError::Tls { .. }), "{error:?}");
    assert!(error.to_string().contains("hosts.toml"), "{error}");
    assert!(error.is_unavailable() && !error.is_final());
    assert_eq!(registry.requests().len(), 0);

    std::fs::write(dir.path().join(registry.host()).join("ca.pem"), registry.ca_pem()).unwrap();
    let trusting = client_for(dir.path(), &registry, &format!("{server}ca = \"ca.pem\"\n"));
    resolve(&trusting, &reference).await.unwrap();
    let careless = client_for(dir.path(), &registry, &format!("{server}skip_verify = true\n"));
    resolve(&careless, &reference).await.unwrap();
}

#[tokio::test]
async fn a_file_without_certificates_is_named() {
    let registry = FakeRegistry::builder().tls().start().await;
    let dir = tempfile::tempdir().unwrap();
    let hosts = format!("server = \"{}\"\nca = \"hosts.toml\"\n", registry.url());
    let client = client_for(dir.path(), &registry, &hosts);
    let error = resolve(&client, &registry.reference("data", "x")).await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.ends_with("hosts.toml holds no valid PEM certificate"), "{source}");
}

#[tokio::test]
async fn https_to_a_plain_registry_gives_a_hint() {
    let registry = FakeRegistry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let client = client_for(dir.path(), &registry, &format!("server = \"https://{}\"\n", registry.host()));
    let error = resolve(&client, &registry.reference("data", "x")).await.unwrap_err();
    assert!(error.to_string().contains("plain HTTP"), "{error}");
}

#[tokio::test]
async fn speaks_ipv6() {
    let registry = FakeRegistry::builder().address(SocketAddr::from((Ipv6Addr::LOCALHOST, 0))).start().await;
    let reference = registry.push("data", "x", &image("2"));
    assert!(reference.starts_with("[::1]:"));
    resolve(&client(), &reference).await.unwrap();
}
