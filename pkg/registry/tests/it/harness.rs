use std::path::Path;
use std::time::Duration;

use imagevol_api::auth::{AuthConfig, Credential};
use imagevol_api::oci::Reference;
use imagevol_base::Supervisor;
use imagevol_registry::{BlobStream, Descriptor, Platform, Registry, RegistryConfig, RegistryError, Resolved, Retries};
use imagevol_test_support::image::{Image, ImageBuilder, LayerBuilder};
use imagevol_test_support::registry::FakeRegistry;

/// Retries without waits worth mentioning.
pub(crate) fn config() -> RegistryConfig {
    let retries = Retries {
        attempts: 3,
        min_delay: Duration::from_millis(1),
        max_delay: Duration::from_millis(2),
        max_retry_after: Duration::from_secs(5),
    };
    RegistryConfig { retries, ..RegistryConfig::default() }
}

pub(crate) fn client_with(config: RegistryConfig) -> Registry {
    imagevol_test_support::install_crypto();
    Registry::new(config, &Supervisor::new("test"))
}

pub(crate) fn client() -> Registry {
    client_with(config())
}

/// A client whose hosts directory says `hosts_toml` of `registry`.
pub(crate) fn client_for(dir: &Path, registry: &FakeRegistry, hosts_toml: &str) -> Registry {
    let host_dir = dir.join(registry.host());
    std::fs::create_dir_all(&host_dir).unwrap();
    std::fs::write(host_dir.join("hosts.toml"), hosts_toml).unwrap();
    client_with(RegistryConfig { hosts_dir: Some(dir.to_owned()), ..config() })
}

pub(crate) fn user(name: &str, password: &str) -> Credential {
    let auth = AuthConfig { username: name.to_owned(), password: password.into(), ..AuthConfig::default() };
    Credential::Auth(auth)
}

pub(crate) fn parse(reference: &str) -> Reference {
    Reference::parse(reference).unwrap()
}

pub(crate) fn amd64() -> Platform {
    Platform::new("linux", "amd64", None)
}

pub(crate) async fn resolve(client: &Registry, reference: &str) -> Result<Resolved, RegistryError> {
    client.resolve(&parse(reference), &amd64(), &Credential::Anonymous).await
}

/// An image with one file, whose content is `text`.
pub(crate) fn image(text: &str) -> Image {
    ImageBuilder::new().layer(LayerBuilder::new().file("file", text).gzip()).build()
}

pub(crate) fn descriptor(digest: &imagevol_api::oci::Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type: "application/octet-stream".to_owned(),
        digest: digest.clone(),
        size,
        annotations: std::collections::BTreeMap::new(),
    }
}

pub(crate) async fn read(mut stream: BlobStream) -> Result<Vec<u8>, RegistryError> {
    let mut body = Vec::new();
    while let Some(chunk) = stream.next().await {
        body.extend_from_slice(&chunk?);
    }
    Ok(body)
}
