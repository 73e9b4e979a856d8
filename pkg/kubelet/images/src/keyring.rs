//! Which credentials are shown for an image, as the kubelet chooses them (Kubernetes, `pkg/credentialprovider/keyring.go`).
//!
//! Pure: what a docker configuration says goes in, the credentials to try come out, in order.

use std::fmt;
use std::sync::Arc;

use imagevol_api::auth::AuthConfig;
use imagevol_api::credentialprovider::RegistryPattern;
use imagevol_base::Digester;
use secrecy::{ExposeSecret, SecretString};

mod docker_config;

pub use docker_config::{DockerConfig, DockerConfigError, Entry, FormError};

/// The host that an image without a registry comes from, in the keys of docker configurations.
const DEFAULT_REGISTRY_HOST: &str = "index.docker.io";
/// The same registry in normalized references.
const DEFAULT_REGISTRY_DOMAIN: &str = "docker.io";

/// Credentials of one origin, found by image.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    /// By key, descending, so that the longer of two paths comes first; equal keys in the order in which they were added.
    rows: Vec<Row>,
}

/// A credential that matches an image.
#[derive(Debug, Clone)]
pub struct MatchedCredential {
    /// What the registry is shown.
    pub auth: Arc<AuthConfig>,
    /// Tells credentials apart in pull records.
    pub hash: CredentialHash,
    /// Where it comes from.
    pub source: CredentialSource,
}

/// Where a credential comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialSource {
    /// A secret that the pod names.
    Secret(Arc<SecretCoordinates>),
    /// A token of the pod's service account, exchanged by a credential provider.
    ServiceAccount(Arc<ServiceAccountCoordinates>),
    /// The node's own configuration: any pod of the node may use what it opens.
    Node,
}

/// What makes a secret the same secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretCoordinates {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`; empty for a secret that came without its name.
    pub uid: String,
}

/// What makes a service account the same service account.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceAccountCoordinates {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`; empty if it is not known, and then two are never the same.
    pub uid: String,
}

/// Hex SHA-256 of a credential's JSON form, the kubelet's `credentialHash` (KEP-2535).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CredentialHash(String);

#[derive(Debug, Clone)]
struct Row {
    key: String,
    pattern: RegistryPattern,
    credential: MatchedCredential,
}

// === impl Keyring ===

impl Keyring {
    /// Adds what `config` holds. Keys that are no `[scheme://]host[:port][/path]` are left out, as the kubelet does.
    pub fn add(&mut self, source: &CredentialSource, config: DockerConfig) {
        for (written, entry) in config.entries {
            let Some((key, pattern)) = RegistryPattern::of_key(&written) else {
                tracing::warn!(?source, "a docker configuration has a key that is no registry; it is left out");
                continue;
            };
            let hash = CredentialHash::of(&entry);
            let credential = MatchedCredential { auth: Arc::new(entry.auth), hash, source: source.clone() };
            self.rows.push(Row { key, pattern, credential });
        }
        self.rows.sort_by(|a, b| b.key.cmp(&a.key));
    }

    /// What to try for `repository` (`domain/path`, normalized), in order; nothing if nobody's credentials match.
    pub fn lookup(&self, repository: &str) -> Vec<MatchedCredential> {
        let Some(target) = RegistryPattern::parse(repository) else { return Vec::new() };
        let matches: Vec<_> = self.credentials(|row| row.pattern.matches(&target)).collect();
        if !matches.is_empty() || !is_on_default_registry(repository) {
            return matches;
        }
        self.credentials(|row| row.key == DEFAULT_REGISTRY_HOST).collect()
    }

    fn credentials(&self, wanted: impl Fn(&Row) -> bool) -> impl Iterator<Item = MatchedCredential> {
        self.rows.iter().filter(move |row| wanted(row)).map(|row| row.credential.clone())
    }
}

// === impl CredentialHash ===

impl CredentialHash {
    /// As the records hold it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Over the fields that are set, in the order and with the escapes of Go's `encoding/json`, so that records of a kubelet
    /// and ours agree.
    fn of(entry: &Entry) -> Self {
        let secret = |text: &Option<SecretString>| text.as_ref().map(|text| text.expose_secret().to_owned());
        let fields = [
            ("username", entry.auth.username.clone()),
            ("password", entry.auth.password.expose_secret().to_owned()),
            ("email", entry.email.clone()),
            ("identitytoken", secret(&entry.auth.identity_token).unwrap_or_default()),
            ("registrytoken", secret(&entry.auth.registry_token).unwrap_or_default()),
        ];
        let set = fields.iter().filter(|(_, value)| !value.is_empty());
        let written: Vec<_> = set.map(|(name, value)| format!("\"{name}\":{}", go_json(value))).collect();
        Self(Digester::sha256(format!("{{{}}}", written.join(",")).as_bytes()).hex().to_owned())
    }
}

impl fmt::Display for CredentialHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A string as Go's `encoding/json` writes it: it escapes what HTML and JavaScript could stumble over.
fn go_json(text: &str) -> String {
    let html = |character| match character {
        '<' => "\\u003c".to_owned(),
        '>' => "\\u003e".to_owned(),
        '&' => "\\u0026".to_owned(),
        '\u{2028}' => "\\u2028".to_owned(),
        '\u{2029}' => "\\u2029".to_owned(),
        other => other.to_string(),
    };
    serde_json::Value::from(text).to_string().chars().map(html).collect()
}

fn is_on_default_registry(repository: &str) -> bool {
    repository.split_once('/').is_some_and(|(domain, _)| domain == DEFAULT_REGISTRY_DOMAIN)
}

#[cfg(test)]
mod tests;
