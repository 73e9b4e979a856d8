//! Why something could not be had from a registry.

mod answer;

use std::sync::Arc;
use std::time::Duration;

use imagevol_api::oci::Digest;

use crate::hosts::ConfigError;
use crate::manifest::ManifestError;
use crate::platform::Platform;
use crate::reach::Forbidden;

pub use answer::{Answer, Asked, Subject};

/// The result of asking a registry.
pub type Result<T, E = RegistryError> = std::result::Result<T, E>;

/// How many platforms an error lists at most.
const PLATFORMS_SHOWN: usize = 16;

/// Why something could not be had from a registry. Texts name the host and never hold a secret.
///
/// Clones share their cause, so that all who wait for one pull can be told.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RegistryError {
    /// 404: there is no such repository, tag or blob. Final.
    #[error("{0}")]
    NotFound(Box<Answer>),
    /// 403: the credentials are known, and do not suffice. Final.
    #[error("{0}")]
    Denied(Box<Answer>),
    /// 401 whatever is shown: the credentials are wrong or missing. Final.
    #[error("{0}")]
    Unauthorized(Box<Answer>),
    /// 429: too many requests. Passing.
    #[error("{answer}")]
    Throttled {
        /// What the registry said.
        answer: Box<Answer>,
        /// How long it wants to be left alone, if it says so.
        retry_after: Option<Duration>,
    },
    /// 407, 408, any 5xx, or a failure of a host that the registry redirected to. Passing.
    #[error("{0}")]
    Unavailable(Box<Answer>),
    /// Another status, such as 400, 410 or 451. Final.
    #[error("{0}")]
    Refused(Box<Answer>),
    /// There is no connection: the name does not resolve, nobody listens, or no answer comes. Passing.
    #[error("registry {registry}: cannot connect")]
    Connect {
        /// The registry host.
        registry: String,
        /// What failed.
        source: Arc<reqwest::Error>,
    },
    /// The TLS handshake failed. Passing, because certificates are mended without the pod's doing.
    #[error("registry {registry}: TLS handshake failed ({hint})")]
    Tls {
        /// The registry host.
        registry: String,
        /// What the node's owner can do.
        hint: String,
        /// What failed.
        source: Arc<reqwest::Error>,
    },
    /// The connection broke or stalled. Passing.
    #[error("registry {registry}: connection broke: {asked}")]
    Interrupted {
        /// The registry host.
        registry: String,
        /// What was being read.
        asked: Asked,
        /// What failed.
        source: Arc<reqwest::Error>,
    },
    /// A blob ended early. Passing.
    #[error("registry {registry}: answer ended after {received} of {expected} bytes: {asked}")]
    Truncated {
        /// The registry host.
        registry: String,
        /// What was being read.
        asked: Asked,
        /// The descriptor's size.
        expected: u64,
        /// Bytes that came, those of earlier attempts included.
        received: u64,
    },
    /// More bytes came than the descriptor or a limit allows. Final.
    #[error("registry {registry}: answer is longer than {limit} bytes: {asked}")]
    TooLarge {
        /// The registry host.
        registry: String,
        /// What was being read.
        asked: Asked,
        /// Most bytes allowed.
        limit: u64,
    },
    /// The content is not what its digest promises. Final.
    #[error("registry {registry}: content has digest {actual}: {asked}")]
    DigestMismatch {
        /// The registry host.
        registry: String,
        /// What was asked for.
        asked: Asked,
        /// The digest of what came.
        actual: Digest,
    },
    /// A web page came, as captive portals and proxies send. Passing.
    #[error("registry {registry}: a web page came instead of content: {asked}")]
    WebPage {
        /// The registry host.
        registry: String,
        /// What was asked for.
        asked: Asked,
    },
    /// A range was asked for and another one came. Passing.
    #[error("registry {registry}: wanted bytes from {from} on, and got {said:?}: {asked}")]
    Range {
        /// The registry host.
        registry: String,
        /// What was asked for.
        asked: Asked,
        /// First byte wanted.
        from: u64,
        /// The `Content-Range` of the answer.
        said: String,
    },
    /// The manifest or index is not acceptable. Final.
    #[error("registry {registry}: unusable manifest: {asked}")]
    Manifest {
        /// The registry host.
        registry: String,
        /// What was asked for.
        asked: Asked,
        /// What is wrong with it.
        source: Box<ManifestError>,
    },
    /// No manifest of an index is for this platform. Final.
    #[error("no image for platform {wanted} in {reference}; available: {}", list(available))]
    PlatformNotFound {
        /// The reference.
        reference: String,
        /// The platform looked for.
        wanted: Platform,
        /// What the index has, in its order.
        available: Vec<Platform>,
    },
    /// A redirect leads where we do not go. Final.
    #[error("registry {registry}: redirect is not followed: {asked}")]
    Redirect {
        /// The registry host.
        registry: String,
        /// What was asked for.
        asked: Asked,
        /// Why not.
        source: Forbidden,
    },
    /// The challenge names a token service to which no credentials go. Final.
    #[error("registry {registry}: its token service is not asked")]
    Realm {
        /// The registry host.
        registry: String,
        /// Why not.
        source: Forbidden,
    },
    /// The token service's answer holds no usable token. Passing.
    #[error("registry {registry}: token service sent no usable token: {reason}")]
    Token {
        /// The registry host.
        registry: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// No configured host may be asked for this. Passing, because the configuration can be mended.
    #[error("registry {registry}: no host in its hosts.toml has capability {capability}")]
    NoEndpoint {
        /// The registry's name.
        registry: String,
        /// `pull` or `resolve`.
        capability: &'static str,
    },
    /// The node's configuration of this registry cannot be used. Passing, because it can be mended.
    #[error("registry {registry}: configuration cannot be used")]
    Configuration {
        /// The registry's name.
        registry: String,
        /// What is wrong.
        source: Arc<ConfigError>,
    },
    /// Tags or referrers could not be listed.
    #[error("registry {registry}: {asked}")]
    Listing {
        /// The registry host.
        registry: String,
        /// What was asked for.
        asked: Asked,
        /// What failed.
        source: Arc<oci_client::errors::OciDistributionError>,
    },
    /// Tags and referrers are listed only where the registry's URL has no path of its own.
    #[error("registry {registry}: listing below a path is not supported yet")]
    ListingBelowPath {
        /// The registry host.
        registry: String,
    },
    /// A task of this process panicked, and said so in the log.
    #[error("registry {registry}: an internal task failed")]
    Internal {
        /// The registry's name.
        registry: String,
    },
}

// === impl RegistryError ===

impl RegistryError {
    /// Whether asking again cannot help unless somebody changes the pod, its credentials or the registry's content.
    pub fn is_final(&self) -> bool {
        match self {
            Self::NotFound(_)
            | Self::Denied(_)
            | Self::Unauthorized(_)
            | Self::Refused(_)
            | Self::TooLarge { .. }
            | Self::DigestMismatch { .. }
            | Self::Manifest { .. }
            | Self::PlatformNotFound { .. }
            | Self::Redirect { .. }
            | Self::Realm { .. }
            | Self::ListingBelowPath { .. } => true,
            Self::Throttled { .. }
            | Self::Unavailable(_)
            | Self::Connect { .. }
            | Self::Tls { .. }
            | Self::Interrupted { .. }
            | Self::Truncated { .. }
            | Self::WebPage { .. }
            | Self::Range { .. }
            | Self::Token { .. }
            | Self::NoEndpoint { .. }
            | Self::Configuration { .. }
            | Self::Listing { .. }
            | Self::Internal { .. } => false,
        }
    }

    /// Whether the registry could not be reached or is not able to answer: what the CRI calls `RegistryUnavailable`.
    pub fn is_unavailable(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(_)
                | Self::Connect { .. }
                | Self::Tls { .. }
                | Self::Interrupted { .. }
                | Self::Truncated { .. }
                | Self::WebPage { .. }
        )
    }

    /// How long the registry wants to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        if let Self::Throttled { retry_after, .. } = self { *retry_after } else { None }
    }

    /// Whether the same request may well succeed within seconds. Waiting for a silent host a second time is left to the caller.
    pub(crate) fn is_worth_a_retry(&self) -> bool {
        if let Self::Connect { source, .. } | Self::Interrupted { source, .. } = self {
            return !source.is_timeout();
        }
        matches!(self, Self::Throttled { .. } | Self::Unavailable(_) | Self::Truncated { .. } | Self::Range { .. })
    }
}

fn list(platforms: &[Platform]) -> String {
    let mut shown: Vec<String> = platforms.iter().take(PLATFORMS_SHOWN).map(Platform::to_string).collect();
    if shown.is_empty() {
        return "none".to_owned();
    }
    if platforms.len() > PLATFORMS_SHOWN {
        shown.push("…".to_owned());
    }
    shown.join(", ")
}
