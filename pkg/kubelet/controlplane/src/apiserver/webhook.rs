//! What a webhook server needs of the API server: its own TLS secret, and its CA in the webhook's configuration.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::ByteString;
use secrecy::zeroize::Zeroize as _;
use serde::Deserialize;
use serde_json::{Value, json};

use imagevol_api::corev1::Secret;
use imagevol_api::metav1::ObjectMeta;

use super::fault::{RequestError, RequestFault};
use super::object::{Call, MUTATING_WEBHOOKS, SECRETS};
use super::server::ApiServer;

/// The content of a secret, and of which version it is. Wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretData {
    /// By key.
    pub data: BTreeMap<String, Vec<u8>>,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// It is made.
    Done,
    /// Somebody else was faster: read again.
    Conflict,
}

/// What is used of a `MutatingWebhookConfiguration`.
#[derive(Deserialize)]
struct Configuration {
    #[serde(default)]
    metadata: ObjectMeta,
    webhooks: Option<Vec<Webhook>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Webhook {
    name: String,
    #[serde(default)]
    client_config: ClientConfig,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientConfig {
    ca_bundle: Option<ByteString>,
}

// === impl ApiServer ===

impl ApiServer {
    /// A secret as it is now; `None` if it is not there.
    pub async fn get_secret(&self, namespace: &str, name: &str) -> Result<Option<SecretData>, RequestError> {
        let found: Option<Secret> = self.find(SECRETS.of(namespace, name).get()?).await?;
        Ok(found.map(SecretData::of))
    }

    /// Puts new content into a secret, if it still is of the version that `secret` says. Type, labels and annotations stay. Never makes one.
    pub async fn replace_secret(
        &self,
        namespace: &str,
        name: &str,
        secret: &SecretData,
    ) -> Result<Replaced, RequestError> {
        let object = SECRETS.of(namespace, name);
        let mut found: Secret = self.read(object.get()?).await?;
        wipe(&mut found);
        if found.metadata.resource_version.as_deref() != Some(&secret.resource_version) {
            return Ok(Replaced::Conflict);
        }
        let encoded = |(key, value): (&String, &Vec<u8>)| (key.clone(), ByteString(value.clone()));
        found.data = Some(secret.data.iter().map(encoded).collect());
        let call = object.replace(&found);
        wipe(&mut found);
        self.change(call?).await
    }

    /// The CA bundle of each webhook of a `MutatingWebhookConfiguration`, in its order, empty where there is none; `None` if there is no such
    /// configuration.
    pub async fn ca_bundles(&self, configuration: &str) -> Result<Option<Vec<Vec<u8>>>, RequestError> {
        let found: Option<Configuration> = self.find(MUTATING_WEBHOOKS.named(configuration).get()?).await?;
        let bundle = |webhook: Webhook| webhook.client_config.ca_bundle.unwrap_or_default().0;
        Ok(found.map(|found| found.webhooks.into_iter().flatten().map(bundle).collect()))
    }

    /// Makes `bundle`, PEM, the CA bundle of every webhook of a configuration; nothing is written where it is so already. That there is no such
    /// configuration is an error.
    pub async fn set_ca_bundle(&self, configuration: &str, bundle: &[u8]) -> Result<Replaced, RequestError> {
        let object = MUTATING_WEBHOOKS.named(configuration);
        let found: Configuration = self.read(object.get()?).await?;
        match found.patch(bundle) {
            None => Ok(Replaced::Done),
            Some(patch) => self.change(object.patch(&patch)?).await,
        }
    }

    async fn change(&self, call: Call) -> Result<Replaced, RequestError> {
        match self.send(call).await {
            Ok(()) => Ok(Replaced::Done),
            Err(RequestError { source: RequestFault::Conflict, .. }) => Ok(Replaced::Conflict),
            Err(error) => Err(error),
        }
    }
}

// === impl SecretData ===

impl SecretData {
    fn of(secret: Secret) -> Self {
        let data = secret.data.into_iter().flatten().map(|(key, value)| (key, value.0)).collect();
        Self { data, resource_version: secret.metadata.resource_version.unwrap_or_default() }
    }
}

impl fmt::Debug for SecretData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.data.keys().collect();
        f.debug_struct("SecretData")
            .field("keys", &keys)
            .field("resource_version", &self.resource_version)
            .finish_non_exhaustive()
    }
}

impl Drop for SecretData {
    fn drop(&mut self) {
        self.data.values_mut().for_each(Vec::zeroize);
    }
}

// === impl Configuration ===

impl Configuration {
    /// The strategic merge patch (webhooks are merged by name) that gives each webhook the bundle; `None` if each has it. With the version that
    /// it is for: the server refuses it for another.
    fn patch(&self, bundle: &[u8]) -> Option<Value> {
        let stale = |webhook: &&Webhook| webhook.client_config.ca_bundle.as_ref().is_none_or(|has| has.0 != bundle);
        let bundle = ByteString(bundle.to_vec());
        let patch = |webhook: &Webhook| json!({"name": webhook.name, "clientConfig": {"caBundle": bundle}});
        let webhooks: Vec<_> = self.webhooks.iter().flatten().filter(stale).map(patch).collect();
        let version = &self.metadata.resource_version;
        (!webhooks.is_empty()).then(|| json!({"metadata": {"resourceVersion": version}, "webhooks": webhooks}))
    }
}

/// Overwrites what a secret holds.
fn wipe(secret: &mut Secret) {
    for value in secret.data.iter_mut().flat_map(|data| data.values_mut()) {
        value.0.zeroize();
    }
    secret.data = None;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::Fixture;
    use super::*;

    const SECRETS: &str = "/api/v1/namespaces/imagevol-system/secrets";
    const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";

    fn secret() -> Value {
        json!({
            "metadata": {"name": "tls", "labels": {"l": "1"}},
            "type": "kubernetes.io/tls", "data": {"tls.crt": "b2xk", "old": "eA=="},
        })
    }

    #[tokio::test]
    async fn replaces_the_content_of_a_secret_and_nothing_else() {
        let fixture = Fixture::new();
        fixture.fake.put(SECRETS, secret());
        let mut found = fixture.server.get_secret("imagevol-system", "tls").await.unwrap().unwrap();
        assert_eq!(found.data["tls.crt"], b"old");
        found.data = [("tls.crt".to_owned(), b"new".to_vec())].into();
        let replaced = fixture.server.replace_secret("imagevol-system", "tls", &found).await.unwrap();
        let now = fixture.fake.get(SECRETS, "tls").unwrap();
        assert_eq!((replaced, &now["data"]), (Replaced::Done, &json!({"tls.crt": "bmV3"})));
        assert_eq!((&now["type"], &now["metadata"]["labels"]), (&json!("kubernetes.io/tls"), &json!({"l": "1"})));
    }

    #[tokio::test]
    async fn does_not_overwrite_what_somebody_else_wrote() {
        let fixture = Fixture::new();
        fixture.fake.put(SECRETS, secret());
        let found = fixture.server.get_secret("imagevol-system", "tls").await.unwrap().unwrap();
        let newer = fixture.fake.put(SECRETS, secret());
        let replaced = fixture.server.replace_secret("imagevol-system", "tls", &found).await.unwrap();
        assert_eq!((replaced, fixture.fake.get(SECRETS, "tls").unwrap()), (Replaced::Conflict, newer));
    }

    #[tokio::test]
    async fn never_makes_a_secret() {
        let fixture = Fixture::new();
        let data = SecretData { data: BTreeMap::new(), resource_version: "1".into() };
        let error = fixture.server.replace_secret("imagevol-system", "tls", &data).await.unwrap_err();
        assert_eq!(
            (error.code(), fixture.server.get_secret("imagevol-system", "tls").await.unwrap()),
            (Some(404), None)
        );
    }

    #[test]
    fn shows_no_value() {
        let data = [("tls.key".to_owned(), b"s3cret".to_vec())].into();
        let text = format!("{:?}", SecretData { data, resource_version: "1".into() });
        assert_eq!(text, r#"SecretData { keys: ["tls.key"], resource_version: "1", .. }"#);
    }

    #[tokio::test]
    async fn gives_every_webhook_the_bundle_once() {
        let fixture = Fixture::new();
        let webhooks = json!([
            {"name": "pods.imagevol.dev", "clientConfig": {"service": {"name": "s"}, "caBundle": "b2xk"}, "rules": [1]},
            {"name": "templates.imagevol.dev", "clientConfig": {"service": {"name": "s"}}},
        ]);
        fixture.fake.put(CONFIGURATIONS, json!({"metadata": {"name": "imagevol"}, "webhooks": webhooks}));
        assert_eq!(fixture.server.ca_bundles("imagevol").await.unwrap(), Some(vec![b"old".to_vec(), vec![]]));
        for _ in 0..2 {
            assert_eq!(fixture.server.set_ca_bundle("imagevol", b"new").await.unwrap(), Replaced::Done);
        }
        assert_eq!(fixture.server.ca_bundles("imagevol").await.unwrap(), Some(vec![b"new".to_vec(); 2]));
        let now = fixture.fake.get(CONFIGURATIONS, "imagevol").unwrap();
        assert_eq!(now["webhooks"][0]["rules"], json!([1]));
        assert_eq!(now["webhooks"][1]["clientConfig"], json!({"service": {"name": "s"}, "caBundle": "bmV3"}));
        assert_eq!(fixture.fake.count("PATCH"), 1);
    }

    #[tokio::test]
    async fn a_configuration_that_is_not_there_is_told() {
        let fixture = Fixture::new();
        assert_eq!(fixture.server.ca_bundles("imagevol").await.unwrap(), None);
        assert_eq!(fixture.server.set_ca_bundle("imagevol", b"new").await.unwrap_err().code(), Some(404));
    }
}
