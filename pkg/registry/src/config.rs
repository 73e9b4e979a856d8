//! How registries are reached: values given by the daemon, no environment and no files read here.

mod proxies;

use std::path::PathBuf;
use std::time::Duration;

pub use proxies::{Proxies, ProxyError, ProxyUrl};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Everything that a [`Registry`](crate::Registry) needs to know.
#[derive(Debug, Clone, Default)]
pub struct RegistryConfig {
    /// Directory with `<host>/hosts.toml` files in containerd's form; read again for each request.
    pub hosts_dir: Option<PathBuf>,
    /// Registries (`host` or `host:port`, as references write them) that are spoken to in plain HTTP. Loopback needs no entry.
    pub plain_http: Vec<String>,
    /// Proxies for everything but loopback.
    pub proxies: Proxies,
    /// Most bytes and entries taken from a registry.
    pub limits: Limits,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// How often to try again within one operation.
    pub retries: Retries,
}

/// Most that is taken from a registry. Sizes in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A manifest or an index: 4 MiB, the least that the distribution spec wants registries to accept.
    pub manifest: u64,
    /// A token service's answer: 64 KiB; real ones are below 8.
    pub token: u64,
    /// The part of an error's body that is read: 64 KiB.
    pub error_body: u64,
    /// A config: 8 MiB, as containerd's content helpers cap small blobs.
    pub config: u64,
    /// Layers of a manifest: 512; overlay-based runtimes stop at 128.
    pub layers: usize,
    /// Entries of an index: 1024; a busy multi-platform image has some fifty.
    pub index_entries: usize,
}

/// How long to wait for a registry.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For a connection, TLS included: 30 s, as in containerd.
    pub connect: Duration,
    /// For a whole manifest or token: 2 min.
    pub small: Duration,
    /// Without a byte of a blob: 5 min, containerd's `image_pull_progress_timeout`.
    pub idle: Duration,
}

/// How often one operation tries again before its caller hears of a failure; the caller has a back-off of its own.
#[derive(Debug, Clone, Copy)]
pub struct Retries {
    /// Further attempts after the first: 3. Progress on a blob starts the count anew.
    pub attempts: usize,
    /// Before the first of them, then doubling, with jitter.
    pub min_delay: Duration,
    /// The longest wait between two.
    pub max_delay: Duration,
    /// The longest `Retry-After` that is waited for; a longer one is returned as an error at once.
    pub max_retry_after: Duration,
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            manifest: 4 * MIB,
            token: 64 * KIB,
            error_body: 64 * KIB,
            config: 8 * MIB,
            layers: 512,
            index_entries: 1024,
        }
    }
}

// === impl Timeouts ===

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(30), small: Duration::from_mins(2), idle: Duration::from_mins(5) }
    }
}

// === impl Retries ===

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts: 3,
            min_delay: Duration::from_millis(200),
            max_delay: Duration::from_secs(5),
            max_retry_after: Duration::from_secs(30),
        }
    }
}
