//! Service accounts, for credential providers that want to know them.

use std::collections::BTreeMap;

use imagevol_api::corev1::ServiceAccount;

use super::fault::{RequestError, RequestFault};
use super::object::SERVICE_ACCOUNTS;
use super::server::ApiServer;

/// What is used of a service account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccountIdentity {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
}

impl ApiServer {
    /// A service account as it is now; `None` if it is not there.
    pub async fn service_account(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<ServiceAccountIdentity>, RequestError> {
        let call = match SERVICE_ACCOUNTS.of(namespace, name).get() {
            Ok(call) => call,
            // No object can have such a name.
            Err(RequestError { source: RequestFault::Name { .. }, .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let found: Option<ServiceAccount> = self.find(call).await?;
        Ok(found.map(|account| ServiceAccountIdentity {
            uid: account.metadata.uid.unwrap_or_default(),
            annotations: account.metadata.annotations.unwrap_or_default(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::Fixture;
    use super::*;

    #[tokio::test]
    async fn tells_uid_and_annotations() {
        let fixture = Fixture::new();
        let account = json!({"metadata": {"name": "web", "uid": "u", "annotations": {"example.com/role": "r"}}});
        fixture.fake.put("/api/v1/namespaces/a/serviceaccounts", account);
        let found = fixture.server.service_account("a", "web").await.unwrap().unwrap();
        let annotations = [("example.com/role".to_owned(), "r".to_owned())].into();
        assert_eq!(found, ServiceAccountIdentity { uid: "u".into(), annotations });
        assert_eq!(fixture.server.service_account("a", "other").await.unwrap(), None);
        assert_eq!(fixture.server.service_account("a", "../x").await.unwrap(), None);
    }
}
