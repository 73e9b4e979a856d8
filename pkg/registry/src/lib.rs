//! The node's side of the OCI distribution protocol: references become checked manifests and verified streams of bytes.
//!
//! In: references, credentials, what registries send. Out: closed types and bounded streams; errors that name the host.
//! Never writes to disk, never trusts a size, a URL or a text of a registry, never shows one credential's answer to another.
//! Floor 2: imports `api` and `base`.

#![forbid(unsafe_code)]

mod blob;
mod challenge;
mod config;
mod endpoint;
mod error;
mod hosts;
mod listing;
mod lru;
mod manifest;
mod platform;
mod presence;
mod reach;
mod registry;
mod resolve;
mod retry;
mod text;
mod token;
mod transport;
mod walk;

pub use blob::BlobStream;
pub use config::{Limits, Proxies, ProxyError, ProxyUrl, RegistryConfig, Retries, Timeouts};
pub use endpoint::{Endpoint, Role, endpoints};
pub use error::{Answer, Asked, RegistryError, Result, Subject};
pub use hosts::{Capabilities, ConfigError, HostEntry, HostsFile};
pub use listing::Referrer;
pub use manifest::{Descriptor, Document, Entry, LayerEncoding, Manifest, ManifestError, ManifestKind, parse};
pub use platform::Platform;
pub use reach::Forbidden;
pub use registry::Registry;
pub use resolve::{Resolved, Source, Warning};
pub use walk::Walk;
