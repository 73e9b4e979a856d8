//! What a pod shows beside its own `imagePullSecrets`, by way of the door through which it asks.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretString};

use crate::credentials::PullSecret;

/// What a door hands over together with a pod's request. By default nothing.
#[derive(Debug, Clone, Default)]
pub struct Claims {
    /// Secrets that came with the request, as `nodePublishSecretRef` of a CSI volume. They are tried after the pod's own.
    ///
    /// Where nobody said which secrets they are, they prove what their content proves: see [`PullSecret::inline`].
    pub secrets: Vec<PullSecret>,
    /// On whose behalf the pod runs, where the door knows; for credential providers that ask for it.
    pub service_account: Option<ServiceAccountClaim>,
}

/// A pod's service account, with tokens that were issued for the pod.
#[derive(Debug, Clone)]
pub struct ServiceAccountClaim {
    /// `metadata.namespace` of the account.
    pub namespace: String,
    /// `metadata.name` of the account.
    pub name: String,
    /// `metadata.uid` of the account; empty if the door does not know it.
    pub uid: String,
    /// `metadata.annotations` of the account.
    pub annotations: BTreeMap<String, String>,
    /// Its tokens, by audience.
    pub tokens: BTreeMap<String, SecretString>,
}

// === impl ServiceAccountClaim ===

impl ServiceAccountClaim {
    /// The token for `audience`, if there is one that is not empty.
    pub fn token(&self, audience: &str) -> Option<&SecretString> {
        self.tokens.get(audience).filter(|token| !token.expose_secret().is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::PullSecretKind;

    #[test]
    fn debug_shows_no_secret() {
        let secret = PullSecret::inline("n", PullSecretKind::DockerConfigJson, b"hunter2".to_vec());
        let account = ServiceAccountClaim {
            namespace: "n".to_owned(),
            name: "a".to_owned(),
            uid: "u".to_owned(),
            annotations: BTreeMap::new(),
            tokens: BTreeMap::from([("registry".to_owned(), "hunter2".into()), ("none".to_owned(), "".into())]),
        };
        assert_eq!(account.token("registry").unwrap().expose_secret(), "hunter2");
        assert!(account.token("none").is_none() && account.token("other").is_none());
        let claims = Claims { secrets: vec![secret], service_account: Some(account) };
        assert!(!format!("{claims:?}").contains("hunter2"));
    }
}
