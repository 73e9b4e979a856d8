//! The kubelet's credential provider plugins: the file that names them, and what is said to them and by them
//! (`k8s.io/kubelet/config/v1`, `k8s.io/kubelet/pkg/apis/credentialprovider`; KEP-2133, KEP-4412).
//!
//! A kubelet's own configuration file and plugins can be used as they are.

mod config;
mod exec;
mod pattern;
mod validate;

pub use config::{
    ConfigError, CredentialProvider, CredentialProviderConfig, EnvVar, ProviderFile, RequireServiceAccount,
    ServiceAccountTokenAttributes, TokenCacheType,
};
pub use exec::{CacheKeyType, CredentialProviderRequest, CredentialProviderResponse, ResponseError};
pub use pattern::RegistryPattern;

use std::fmt;

/// The version in which a plugin is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProviderApiVersion {
    /// `credentialprovider.kubelet.k8s.io/v1`.
    V1,
    /// `credentialprovider.kubelet.k8s.io/v1alpha1`.
    V1Alpha1,
    /// `credentialprovider.kubelet.k8s.io/v1beta1`.
    V1Beta1,
}

// === impl ProviderApiVersion ===

impl ProviderApiVersion {
    /// All, in the order in which the kubelet lists them.
    const ALL: [Self; 3] = [Self::V1, Self::V1Alpha1, Self::V1Beta1];

    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "credentialprovider.kubelet.k8s.io/v1",
            Self::V1Alpha1 => "credentialprovider.kubelet.k8s.io/v1alpha1",
            Self::V1Beta1 => "credentialprovider.kubelet.k8s.io/v1beta1",
        }
    }

    fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }
}

impl fmt::Display for ProviderApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
