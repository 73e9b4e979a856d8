//! What the webhook keeps at the API server: its keys in a Secret, and what they are trusted by in its configuration.

use std::error::Error;
use std::future::Future;

use imagevol_controlplane::apiserver::ApiServer;
use imagevol_controlplane::apiserver::webhook::{Replaced, SecretData};

/// Any failure of the cluster; what can be done about it is the same for all: try again.
pub(super) type BoxError = Box<dyn Error + Send + Sync>;

/// The two objects.
pub(super) trait Cluster: Send + Sync + 'static {
    /// The Secret; `None` if there is none.
    fn secret(&self) -> impl Future<Output = Result<Option<SecretData>, BoxError>> + Send;
    /// Puts new content into the Secret, if it still is of the version that is given.
    fn replace_secret(&self, secret: &SecretData) -> impl Future<Output = Result<Replaced, BoxError>> + Send;
    /// The `caBundle` of each webhook of the configuration; `None` if there is none.
    fn ca_bundles(&self) -> impl Future<Output = Result<Option<Vec<Vec<u8>>>, BoxError>> + Send;
    /// Makes it the `caBundle` of every webhook of the configuration.
    fn set_ca_bundle(&self, bundle: &[u8]) -> impl Future<Output = Result<Replaced, BoxError>> + Send;
}

/// The objects at a real API server.
#[derive(Debug)]
pub(super) struct Objects {
    pub(super) server: ApiServer,
    pub(super) namespace: String,
    pub(super) secret: String,
    pub(super) configuration: String,
}

// === impl Objects ===

impl Cluster for Objects {
    async fn secret(&self) -> Result<Option<SecretData>, BoxError> {
        Ok(self.server.get_secret(&self.namespace, &self.secret).await?)
    }

    async fn replace_secret(&self, secret: &SecretData) -> Result<Replaced, BoxError> {
        Ok(self.server.replace_secret(&self.namespace, &self.secret, secret).await?)
    }

    async fn ca_bundles(&self) -> Result<Option<Vec<Vec<u8>>>, BoxError> {
        Ok(self.server.ca_bundles(&self.configuration).await?)
    }

    async fn set_ca_bundle(&self, bundle: &[u8]) -> Result<Replaced, BoxError> {
        Ok(self.server.set_ca_bundle(&self.configuration, bundle).await?)
    }
}
