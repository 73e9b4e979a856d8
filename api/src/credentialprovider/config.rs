//! `CredentialProviderConfig`: which plugins there are, and for which images each is asked.

use std::collections::BTreeSet;
use std::fmt;

use secrecy::SecretString;
use serde::Deserialize;

use super::{ProviderApiVersion, RegistryPattern, validate};
use crate::core::field::FieldError;
use crate::duration::Duration;

const KIND: &str = "CredentialProviderConfig";
/// The newest version of the file, which alone knows tokens of service accounts.
const V1: &str = "kubelet.config.k8s.io/v1";
/// The older ones, which are read too.
const OLDER: [&str; 2] = ["kubelet.config.k8s.io/v1beta1", "kubelet.config.k8s.io/v1alpha1"];
/// Longest file that is read: far above any list of plugins.
const MAX_FILE_BYTES: usize = 1 << 20;

/// The plugins of a node, checked, in the order in which they are asked.
#[derive(Debug, Clone)]
pub struct CredentialProviderConfig {
    /// At least one; their names are unique.
    pub providers: Vec<CredentialProvider>,
}

/// One plugin. `Debug` shows its name and images alone: arguments and variables may be secrets.
#[derive(Clone)]
pub struct CredentialProvider {
    /// The name of the program in the directory of plugins: no path, no spaces, neither `.` nor `..`.
    pub name: String,
    /// The images that it is asked for; at least one.
    pub match_images: Vec<RegistryPattern>,
    /// How long an answer is kept that does not say so itself; zero for not at all.
    pub default_cache_duration: Duration,
    /// What it understands, and has to answer with.
    pub api_version: ProviderApiVersion,
    /// Arguments of the program.
    pub args: Vec<String>,
    /// Variables that are added to the daemon's own, and win over them.
    pub env: Vec<EnvVar>,
    /// Set for a plugin that wants to know for which service account an image is pulled.
    pub token_attributes: Option<ServiceAccountTokenAttributes>,
}

/// A variable of a plugin's environment.
#[derive(Debug, Clone)]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: SecretString,
}

/// What a plugin is told of a pod's service account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccountTokenAttributes {
    /// For whom the token is issued. Not empty.
    pub audience: String,
    /// Among whom an answer is shared.
    pub cache_type: TokenCacheType,
    /// What to do for a pod without a service account.
    pub require_service_account: RequireServiceAccount,
    /// Annotations of the account without which the plugin is not asked.
    pub required_annotations: BTreeSet<String>,
    /// Annotations of the account that it is told if they are there.
    pub optional_annotations: BTreeSet<String>,
}

/// Among whom an answer for a service account is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenCacheType {
    /// Nobody else: a pod's token is its own.
    Token,
    /// All pods of the service account.
    ServiceAccount,
}

/// Whether a plugin is asked for pods without a service account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequireServiceAccount {
    /// It is not.
    Yes,
    /// It is, without a token.
    No,
}

/// A file of plugins, well formed but not checked. Several make one configuration.
#[derive(Debug, Clone)]
pub struct ProviderFile {
    pub(super) providers: Vec<RawProvider>,
    pub(super) age: Age,
}

/// Why plugins cannot be configured.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file is longer than it may be.
    #[error("credential provider configuration is longer than {MAX_FILE_BYTES} bytes")]
    TooLarge,
    /// A file is neither YAML nor JSON, or has a field that is unknown, is there twice, or has a value of the wrong type.
    #[error("credential provider configuration cannot be read: {message}")]
    Parse {
        /// What is wrong, with its line; none of the file's lines.
        message: String,
    },
    /// A file is a configuration of something else, or of a version that is not known.
    #[error(
        "credential provider configuration must be of apiVersion {V1} and kind {KIND}, not {api_version:?} and {kind:?}"
    )]
    Type {
        /// As written; empty where nothing is.
        api_version: String,
        /// As written; empty where nothing is.
        kind: String,
    },
    /// Fields have values that cannot be used.
    #[error("credential provider configuration is invalid: {}", .0.iter().map(FieldError::to_string).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<FieldError>),
}

/// Whether a file's version knows tokens of service accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    Current,
    BeforeTokens,
}

/// The head of every versioned file; the rest is not looked at.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TypeMeta {
    api_version: String,
    kind: String,
}

/// The file as it is written. Go takes `null` for an empty list.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawFile {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    providers: Option<Vec<RawProvider>>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct RawProvider {
    pub(super) name: String,
    pub(super) match_images: Option<Vec<String>>,
    pub(super) default_cache_duration: Option<Duration>,
    pub(super) api_version: String,
    pub(super) args: Option<Vec<String>>,
    pub(super) env: Option<Vec<RawEnvVar>>,
    pub(super) token_attributes: Option<RawTokenAttributes>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct RawEnvVar {
    pub(super) name: String,
    pub(super) value: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct RawTokenAttributes {
    pub(super) service_account_token_audience: String,
    pub(super) cache_type: String,
    pub(super) require_service_account: Option<bool>,
    pub(super) required_service_account_annotation_keys: Option<Vec<String>>,
    pub(super) optional_service_account_annotation_keys: Option<Vec<String>>,
}

// === impl CredentialProviderConfig ===

impl CredentialProviderConfig {
    /// The plugins of all files, in their order, checked as the kubelet checks them.
    pub fn new(files: Vec<ProviderFile>) -> Result<Self, ConfigError> {
        validate::config(files).map(|providers| Self { providers }).map_err(ConfigError::Invalid)
    }

    /// The same for a single file.
    pub fn parse(yaml: &str) -> Result<Self, ConfigError> {
        Self::new(vec![ProviderFile::decode(yaml)?])
    }
}

// === impl ProviderFile ===

impl ProviderFile {
    /// Reads one file, strictly.
    pub fn decode(yaml: &str) -> Result<Self, ConfigError> {
        if yaml.len() > MAX_FILE_BYTES {
            return Err(ConfigError::TooLarge);
        }
        let TypeMeta { api_version, kind } = read(yaml)?;
        let age = match &*api_version {
            V1 => Age::Current,
            older if OLDER.contains(&older) => Age::BeforeTokens,
            _ => return Err(ConfigError::Type { api_version, kind }),
        };
        if kind != KIND {
            return Err(ConfigError::Type { api_version, kind });
        }
        let file: RawFile = read(yaml)?;
        Ok(Self { providers: file.providers.unwrap_or_default(), age })
    }
}

fn read<'y, T: Deserialize<'y>>(yaml: &'y str) -> Result<T, ConfigError> {
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(yaml, options)
        .map_err(|error| ConfigError::Parse { message: error.without_snippet().to_string() })
}

// === impl CredentialProvider ===

impl CredentialProvider {
    /// Whether it is asked for `repository` (`domain/path`, normalized).
    pub fn is_for(&self, repository: &str) -> bool {
        RegistryPattern::parse(repository)
            .is_some_and(|target| self.match_images.iter().any(|pattern| pattern.matches(&target)))
    }
}

impl fmt::Debug for CredentialProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialProvider")
            .field("name", &self.name)
            .field("match_images", &self.match_images)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RawProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawProvider").field("name", &self.name).finish_non_exhaustive()
    }
}

// === impl TokenCacheType ===

impl TokenCacheType {
    pub(super) const NAMES: [&'static str; 2] = ["ServiceAccount", "Token"];

    pub(super) fn of(text: &str) -> Option<Self> {
        match text {
            "ServiceAccount" => Some(Self::ServiceAccount),
            "Token" => Some(Self::Token),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
