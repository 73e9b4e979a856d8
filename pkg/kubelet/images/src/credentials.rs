//! The credentials that a pod may show: those of its pull secrets, those that came with its request, then those that the node
//! has for it.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use imagevol_api::corev1::{Pod, Secret};
use secrecy::{ExposeSecret, SecretSlice};

use crate::keyring::{
    CredentialSource, DockerConfig, DockerConfigError, Keyring, MatchedCredential, SecretCoordinates,
};

/// Where pull secrets come from. Implemented by whoever knows the pods' objects.
#[async_trait]
pub trait PullSecrets: Send + Sync {
    /// The secrets that `spec.imagePullSecrets` of the pod names, in its order. That some are missing is no error.
    async fn for_pod(&self, pod: &Pod) -> Result<PodPullSecrets, PullSecretsError>;
}

/// The pull secrets of one pod.
#[derive(Debug, Clone, Default)]
pub struct PodPullSecrets {
    /// Those that exist and are of a type for registries, in the pod's order.
    pub found: Vec<PullSecret>,
    /// Names of those that could not be had, in the pod's order.
    pub missing: Vec<String>,
}

/// A secret with credentials for registries.
#[derive(Debug, Clone)]
pub struct PullSecret {
    /// Which secret it is.
    pub coordinates: SecretCoordinates,
    /// Its form.
    pub kind: PullSecretKind,
    /// What it holds under [`PullSecretKind::key`].
    pub data: SecretSlice<u8>,
}

/// The two forms of secrets with credentials for registries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullSecretKind {
    /// `kubernetes.io/dockerconfigjson`.
    DockerConfigJson,
    /// `kubernetes.io/dockercfg`.
    DockerCfg,
}

/// The pull secrets of a pod could not be looked up.
#[derive(Debug, thiserror::Error)]
#[error("failed to get the pull secrets of the pod")]
pub struct PullSecretsError {
    /// Why. Its text is shown to the user and holds no secret.
    #[source]
    pub source: Box<dyn Error + Send + Sync>,
}

/// Why nobody knows which credentials a pod may show.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The pull secrets could not be looked up. Trying again can help.
    #[error(transparent)]
    Secrets(#[from] PullSecretsError),
    /// One pull secret is broken, which spoils the whole lookup, as in the kubelet. Somebody has to change it.
    #[error("failed to read pull secret {namespace}/{name}")]
    Secret {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// What is wrong with it.
        source: DockerConfigError,
    },
    /// The same for a secret that came with the request and that nobody named.
    #[error("failed to read the pull secret that came with the request")]
    Inline {
        /// What is wrong with it.
        source: DockerConfigError,
    },
}

/// What a pod may show a registry for one repository.
#[derive(Debug, Clone, Default)]
pub(crate) struct PodCredentials {
    /// What to try, in order: from the pod's secrets, then from what the door showed, then from the node. Empty means to ask as anybody.
    pub(crate) matches: Vec<MatchedCredential>,
}

// === impl PullSecret ===

impl PullSecret {
    /// The secret as a pull secret; `None` if it is of another type, or empty.
    pub fn of(secret: &Secret) -> Option<Self> {
        let kind = PullSecretKind::of_type(secret.type_.as_deref()?)?;
        let written = secret.string_data.as_ref().and_then(|data| data.get(kind.key())).map(String::as_bytes);
        let encoded = || secret.data.as_ref().and_then(|data| data.get(kind.key())).map(|bytes| &*bytes.0);
        let data = written.or_else(encoded).filter(|data| !data.is_empty())?;
        let meta = &secret.metadata;
        let coordinates = SecretCoordinates {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
        };
        Some(Self { coordinates, kind, data: data.to_vec().into() })
    }

    /// A secret that came with a request of a pod in `namespace`, without its name: `nodePublishSecretRef` of a CSI volume.
    ///
    /// It is the same as another only if its content is: it has no identity that would outlast a change.
    pub fn inline(namespace: &str, kind: PullSecretKind, data: Vec<u8>) -> Self {
        let namespace = namespace.to_owned();
        let coordinates = SecretCoordinates { namespace, name: String::new(), uid: String::new() };
        Self { coordinates, kind, data: data.into() }
    }

    fn config(&self) -> Result<DockerConfig, CredentialError> {
        let data = self.data.expose_secret();
        let parsed = match self.kind {
            PullSecretKind::DockerConfigJson => DockerConfig::from_config_json(data),
            PullSecretKind::DockerCfg => DockerConfig::from_dockercfg(data),
        };
        let SecretCoordinates { namespace, name, .. } = self.coordinates.clone();
        parsed.map_err(|source| {
            if name.is_empty() {
                return CredentialError::Inline { source };
            }
            CredentialError::Secret { namespace, name, source }
        })
    }
}

// === impl PullSecretKind ===

impl PullSecretKind {
    /// The kind for a secret's `type`.
    pub fn of_type(type_: &str) -> Option<Self> {
        [Self::DockerConfigJson, Self::DockerCfg].into_iter().find(|kind| kind.as_str() == type_)
    }

    /// The kind that has its content under `key`, where a secret came without its type.
    pub fn of_key(key: &str) -> Option<Self> {
        [Self::DockerConfigJson, Self::DockerCfg].into_iter().find(|kind| kind.key() == key)
    }

    /// The secret's `type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DockerConfigJson => "kubernetes.io/dockerconfigjson",
            Self::DockerCfg => "kubernetes.io/dockercfg",
        }
    }

    /// The key in the secret's `data`.
    pub const fn key(self) -> &'static str {
        match self {
            Self::DockerConfigJson => ".dockerconfigjson",
            Self::DockerCfg => ".dockercfg",
        }
    }
}

impl fmt::Display for PullSecretKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl CredentialError ===

impl CredentialError {
    /// Whether somebody has to change something before another try can help.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Secrets(_) => false,
            Self::Secret { .. } | Self::Inline { .. } => true,
        }
    }
}

// === impl PodCredentials ===

impl PodCredentials {
    /// What `own` and then `claimed` secrets have for `repository` (`domain/path`, normalized).
    pub(crate) fn matching(
        own: &[PullSecret],
        claimed: &[PullSecret],
        repository: &str,
    ) -> Result<Self, CredentialError> {
        let mut matches = keyring(own)?.lookup(repository);
        matches.extend(keyring(claimed)?.lookup(repository));
        Ok(Self { matches })
    }

    /// Adds what comes after the secrets.
    #[must_use]
    pub(crate) fn and_then(mut self, of_node: Vec<MatchedCredential>) -> Self {
        self.matches.extend(of_node);
        self
    }
}

fn keyring(secrets: &[PullSecret]) -> Result<Keyring, CredentialError> {
    let mut ring = Keyring::default();
    for secret in secrets {
        let source = CredentialSource::Secret(Arc::new(secret.coordinates.clone()));
        ring.add(&source, secret.config()?);
    }
    Ok(ring)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use imagevol_api::metav1::ObjectMeta;
    use rstest::rstest;

    use super::*;

    fn pull_secret(name: &str, kind: PullSecretKind, data: &str) -> PullSecret {
        let coordinates =
            SecretCoordinates { namespace: "default".to_owned(), name: name.to_owned(), uid: format!("uid-{name}") };
        PullSecret { coordinates, kind, data: data.as_bytes().to_vec().into() }
    }

    fn secret(type_: &str, key: &str, data: &str) -> Secret {
        Secret {
            metadata: ObjectMeta { name: Some("s".to_owned()), ..ObjectMeta::default() },
            type_: Some(type_.to_owned()),
            string_data: Some(BTreeMap::from([(key.to_owned(), data.to_owned())])),
            ..Secret::default()
        }
    }

    #[test]
    fn the_pods_secrets_come_before_claims_and_claims_before_the_node() {
        let both = [
            pull_secret("a", PullSecretKind::DockerConfigJson, r#"{"auths":{"r.io":{"username":"json"}}}"#),
            pull_secret("b", PullSecretKind::DockerCfg, r#"{"r.io":{"username":"cfg"},"q.io":{"username":"other"}}"#),
        ];
        let claimed = br#"{"r.io/a":{"username":"claimed"}}"#.to_vec();
        let claimed = PullSecret::inline("default", PullSecretKind::of_key(".dockercfg").unwrap(), claimed);
        let mut node = Keyring::default();
        let config = DockerConfig::from_config_json(br#"{"auths":{"r.io/a":{"username":"node"}}}"#).unwrap();
        node.add(&CredentialSource::Node, config);
        let found = PodCredentials::matching(&both, &[claimed], "r.io/a").unwrap();
        let found = found.and_then(node.lookup("r.io/a")).matches;
        let users: Vec<_> = found.iter().map(|found| &*found.auth.username).collect();
        assert_eq!(users, ["json", "cfg", "claimed", "node"]);
        assert_eq!(found[3].source, CredentialSource::Node);
    }

    #[test]
    fn one_broken_secret_spoils_the_lookup() {
        let secrets = [
            pull_secret("good", PullSecretKind::DockerConfigJson, r#"{"auths":{"r.io":{"username":"a"}}}"#),
            pull_secret("bad", PullSecretKind::DockerConfigJson, "{\"auths\":{\"hunter2-planted\""),
        ];
        let error = PodCredentials::matching(&secrets, &[], "r.io/a").unwrap_err();
        assert!(error.is_final());
        let text = crate::text::with_causes(&error);
        let expected =
            "failed to read pull secret default/bad: not a docker configuration: unexpected end at line 1 column 27";
        assert_eq!(text, expected);
        assert!(!format!("{secrets:?} {error:?}").contains("hunter2-planted"));
    }

    #[rstest]
    #[case("kubernetes.io/dockerconfigjson", ".dockerconfigjson", "{}", true)]
    #[case("kubernetes.io/dockercfg", ".dockercfg", "{}", true)]
    #[case("kubernetes.io/dockercfg", ".dockerconfigjson", "{}", false)]
    #[case("kubernetes.io/dockercfg", ".dockercfg", "", false)]
    #[case("Opaque", ".dockercfg", "{}", false)]
    fn takes_the_two_types(#[case] type_: &str, #[case] key: &str, #[case] data: &str, #[case] taken: bool) {
        assert_eq!(PullSecret::of(&secret(type_, key, data)).is_some(), taken);
    }
}
