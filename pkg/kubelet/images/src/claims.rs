//! What a pod shows beside its own `imagePullSecrets`, by way of the door through which it asks.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::credentials::PullSecret;
use crate::keyring::ServiceAccountCoordinates;

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

/// What of a token's claims is read.
#[derive(Deserialize)]
struct Payload {
    #[serde(rename = "kubernetes.io")]
    kubernetes: KubernetesClaims,
}

#[derive(Deserialize)]
struct KubernetesClaims {
    namespace: String,
    serviceaccount: AccountClaims,
}

#[derive(Deserialize)]
struct AccountClaims {
    name: String,
    uid: String,
}

/// How much is shown, not what: a request that shows more than one that failed need not wait for it. A door may ask for an image
/// before it is handed secrets and tokens. New content alone is no new request: tokens are new each time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct ClaimsShape {
    secrets: usize,
    audiences: BTreeSet<String>,
}

// === impl Claims ===

impl Claims {
    pub(crate) fn shape(&self) -> ClaimsShape {
        let tokens = self.service_account.iter().flat_map(|account| account.tokens.keys());
        ClaimsShape { secrets: self.secrets.len(), audiences: tokens.cloned().collect() }
    }
}

// === impl ServiceAccountClaim ===

impl ServiceAccountClaim {
    /// The account `namespace`/`name` as its tokens tell of it: for doors that are given tokens and no objects.
    ///
    /// Tokens are believed, not verified: they must come from who asked for them, the kubelet. Where they do not tell the
    /// account's UID, nobody knows it.
    pub fn of_tokens(namespace: &str, name: &str, tokens: BTreeMap<String, SecretString>) -> Self {
        let uid = tokens.values().find_map(|token| uid_in(token, namespace, name)).unwrap_or_default();
        let [namespace, name] = [namespace, name].map(str::to_owned);
        Self { namespace, name, uid, annotations: BTreeMap::new(), tokens }
    }

    /// Which account it is.
    pub(crate) fn coordinates(&self) -> ServiceAccountCoordinates {
        let Self { namespace, name, uid, .. } = self;
        ServiceAccountCoordinates { namespace: namespace.clone(), name: name.clone(), uid: uid.clone() }
    }

    /// The token for `audience`, if there is one that is not empty.
    pub fn token(&self, audience: &str) -> Option<&SecretString> {
        self.tokens.get(audience).filter(|token| !token.expose_secret().is_empty())
    }
}

/// The UID in a token of this account (Kubernetes, `pkg/serviceaccount/claims.go`, `privateClaims`).
fn uid_in(token: &SecretString, namespace: &str, name: &str) -> Option<String> {
    let payload = token.expose_secret().split('.').nth(1)?;
    let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
    let Payload { kubernetes } = serde_json::from_slice(&payload).ok()?;
    let same = kubernetes.namespace == namespace && kubernetes.serviceaccount.name == name;
    same.then_some(kubernetes.serviceaccount.uid)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::credentials::PullSecretKind;

    fn token(payload: &str) -> SecretString {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload)).into()
    }

    const PAYLOAD: &str = r#"{"aud":["r"],"kubernetes.io":{"namespace":"n","pod":{"name":"p","uid":"x"},"serviceaccount":{"name":"a","uid":"u"}}}"#;

    #[rstest]
    #[case::its_own(PAYLOAD, "u")]
    #[case::of_another_namespace(&PAYLOAD.replace("\"n\"", "\"m\""), "")]
    #[case::of_another_account(&PAYLOAD.replace("\"a\"", "\"b\""), "")]
    #[case::of_no_account("{}", "")]
    #[case::no_json("uid", "")]
    fn a_token_tells_the_uid(#[case] payload: &str, #[case] uid: &str) {
        let tokens = BTreeMap::from([("q".to_owned(), "opaque".into()), ("r".to_owned(), token(payload))]);
        let claim = ServiceAccountClaim::of_tokens("n", "a", tokens);
        let coordinates = claim.coordinates();
        assert_eq!((&*coordinates.namespace, &*coordinates.name, &*coordinates.uid), ("n", "a", uid));
    }

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
