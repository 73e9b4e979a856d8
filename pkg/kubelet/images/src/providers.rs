//! The kubelet's credential provider plugins: programs of the node's administrator that know credentials for registries
//! (Kubernetes, `pkg/credentialprovider/plugin`; KEP-2133, KEP-4412).
//!
//! A plugin that fails gives no credentials, and the log says so; the pull goes on with what else there is.

use std::path::Path;
use std::sync::Arc;

use imagevol_api::corev1::Pod;

use crate::claims::{Claims, ServiceAccountClaim};
use crate::keyring::{CredentialSource, Keyring};
use crate::metrics::Metrics;

mod cache;
mod flights;
mod identity;
mod load;
mod metrics;
mod plugin;
mod program;

pub use load::{ProgramError, ProvidersError};
pub(crate) use metrics::ProviderMetrics;
use plugin::Plugin;

/// The plugins of a node; by default none. Clones are the same plugins, with one memory of answers.
#[derive(Debug, Clone, Default)]
pub struct CredentialProviders {
    plugins: Arc<[Plugin]>,
}

/// On whose behalf credentials are wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Behalf<'a> {
    /// The node's own, or a pod's that has no service account.
    Node,
    /// A pod's whose service account cannot be proved: the door does not know more.
    UnknownAccount,
    /// A pod's with this service account.
    Account(&'a ServiceAccountClaim),
}

// === impl CredentialProviders ===

impl CredentialProviders {
    /// The plugins that `config` names, a file or a directory of files; their programs are in `bin_dir`. Blocking.
    pub fn load(config: &Path, bin_dir: &Path, metrics: &Metrics) -> Result<Self, ProvidersError> {
        let loaded = load::load(config, bin_dir)?;
        metrics.providers.configured(&loaded.hash);
        let plugin = |(config, program)| Plugin::new(config, program, metrics.providers.clone());
        Ok(Self { plugins: loaded.programs.into_iter().map(plugin).collect() })
    }

    /// What the plugins know for `repository` (`domain/path`, normalized). All that are for it are asked, at once.
    pub(crate) async fn keyring(&self, repository: &str, behalf: Behalf<'_>) -> Keyring {
        let asked = self.plugins.iter().filter(|plugin| plugin.is_for(repository));
        let answers = futures_util::future::join_all(asked.map(|plugin| plugin.ask(repository, behalf))).await;
        let mut ring = Keyring::default();
        for answer in answers.into_iter().flatten() {
            let source = answer.account.map_or(CredentialSource::Node, CredentialSource::ServiceAccount);
            ring.add(&source, (*answer.credentials).clone());
        }
        ring
    }
}

// === impl Behalf ===

impl<'a> Behalf<'a> {
    /// A pod that shows `claims`.
    pub(crate) fn of(pod: &Pod, claims: &'a Claims) -> Self {
        let named = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
        match (&claims.service_account, named) {
            (Some(account), _) => Self::Account(account),
            (None, None | Some("")) => Self::Node,
            (None, Some(_)) => Self::UnknownAccount,
        }
    }
}

#[cfg(test)]
mod tests;
