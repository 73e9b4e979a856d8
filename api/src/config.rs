//! The daemon's configuration file: kind `ImagevolConfiguration`, `imagevol.dev/v1alpha1`.
//!
//! Fields are named as in `KubeletConfiguration` where that has them, and mean the same. Unknown fields are errors.

mod allowlist;
mod bytes;
mod policy;
mod validate;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::core::field::FieldError;
use crate::duration::Duration;

pub use allowlist::{Allowlist, AllowlistError};
pub use bytes::Bytes;
pub use policy::{
    ImageBackend, ImagePullCredentialsVerificationPolicy, LogFormat, PULL_FAILURE_POLICY_ANNOTATION, PullFailurePolicy,
};

/// The file that is read where none is named.
pub const DEFAULT_PATH: &str = "/etc/imagevol/config.yaml";
/// The only version so far.
pub const API_VERSION: &str = "imagevol.dev/v1alpha1";
/// The kind of a configuration file.
pub const KIND: &str = "ImagevolConfiguration";
/// Name of the CSI driver.
pub const CSI_DRIVER: &str = "csi.imagevol.dev";
/// The kubelet's root directory (kubelet `--root-dir`, default).
const KUBELET_ROOT: &str = "/var/lib/kubelet";
/// Longest configuration file that is read: many times one that sets every field.
pub const MAX_CONFIG_BYTES: usize = 1 << 20;

/// What the daemon can be told. Every field has a default; only `apiVersion` and `kind` must be there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ImagevolConfiguration {
    /// Must be `imagevol.dev/v1alpha1`.
    pub api_version: String,
    /// Must be `ImagevolConfiguration`.
    pub kind: String,

    /// Where images, layers and the database are kept. Needs a disk: tmpfs cannot back EROFS files.
    /// Default: `/var/lib/imagevol`.
    pub state_dir: PathBuf,
    /// Where sockets and staging mounts are. Should be empty after a reboot.
    /// Default: `/run/imagevol`.
    pub run_dir: PathBuf,
    /// The kubelet-shaped directory under which pods' volumes are mounted, as `pods/<uid>/volumes/...`.
    /// Default: `/var/lib/kubelet` with `csi`, else `kubelet` in `stateDir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_dir: Option<PathBuf>,
    /// The directory that is watched for manifests of pods and pull secrets. It need not exist.
    /// Default: `/etc/imagevol/manifests`.
    pub static_pod_path: PathBuf,
    /// The socket of the daemon's local API.
    /// Default: `imagevold.sock` in `runDir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// Where `/metrics`, `/livez` and `/readyz` are served, over plain HTTP and without authentication; the port 0
    /// picks a free one.
    /// Default: `127.0.0.1:9690`.
    pub metrics_address: SocketAddr,
    /// The name of this node in pods and events.
    /// Default: the host's name, in lower case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,

    /// How often `staticPodPath` is read anew, besides whenever it changes; above zero.
    /// Default: `20s`.
    pub file_check_frequency: Duration,
    /// How long events are kept; above zero.
    /// Default: `1h`.
    #[serde(rename = "eventTTL")]
    pub event_ttl: Duration,
    /// How long a shutdown waits for pulls and mounts under way before it breaks them off.
    /// Default: `10s`.
    pub shutdown_grace_period: Duration,
    /// How the daemon logs.
    pub logging: LoggingConfiguration,

    /// How images become mounts: `auto` tries, in this order, `erofs` (files, Linux 6.12 and later) and `erofs-loop`
    /// (loop devices, Linux 6.4 and later).
    /// Default: `auto`.
    pub image_backend: ImageBackend,
    /// Whether mounts are `noexec`, besides `ro,nosuid,nodev` which they always are.
    /// Default: `false`, as upstream since Kubernetes 1.34.
    pub noexec: bool,

    /// Whether images are pulled one after the other.
    /// Default: `false`.
    pub serialize_image_pulls: bool,
    /// Images that are pulled at once, at least 1; more than 1 needs `serializeImagePulls: false`.
    /// Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_parallel_image_pulls: Option<u32>,
    /// Pulls that are begun in a second on average; 0 is no limit.
    /// Default: `0`.
    #[serde(rename = "registryPullQPS")]
    pub registry_pull_qps: u32,
    /// Pulls that may be begun at once before `registryPullQPS` holds them back; used only with that.
    /// Default: `10`.
    pub registry_burst: u32,
    /// Blobs of one image that are fetched at once, at least 1.
    /// Default: `3`.
    pub max_blobs_per_pull: u32,
    /// Blobs that are fetched at once on this node, at least 1.
    /// Default: `8`.
    pub max_blobs_per_node: u32,
    /// How long a pull may go without a byte before it is broken off; 0 is for ever.
    /// Default: `5m0s`.
    pub image_pull_progress_timeout: Duration,
    /// What becomes of a pod whose image volume cannot be pulled: `Fail` (at once if the error is final, else after
    /// `pullDeadline`) or `Retry` (for ever, as the kubelet does). A pod can choose for itself with the annotation
    /// `imagevol.dev/pull-failure-policy`.
    /// Default: `Fail`.
    pub pull_failure_policy: PullFailurePolicy,
    /// With `Fail`: how long passing errors are retried, counted from the first one since bytes last came in.
    /// Default: `5m0s`.
    pub pull_deadline: Duration,
    /// How long a pull goes on that no pod wants any more.
    /// Default: `30s`.
    pub abandoned_pull_grace_period: Duration,

    /// Which images that are already there a pod may use without its own credentials: `NeverVerify` (all),
    /// `NeverVerifyPreloadedImages` (those that imagevol did not pull), `NeverVerifyAllowlistedImages` (those of
    /// `preloadedImagesVerificationAllowlist`) or `AlwaysVerify` (none).
    /// Default: `NeverVerifyPreloadedImages`.
    pub image_pull_credentials_verification_policy: ImagePullCredentialsVerificationPolicy,
    /// Image names without tag or digest, or with a final `/*`; only with `NeverVerifyAllowlistedImages`.
    /// Default: empty.
    pub preloaded_images_verification_allowlist: Vec<String>,
    /// The file of kind `CredentialProviderConfig` that names plugins with credentials for registries, as the kubelet's
    /// flag of that name; with `imageCredentialProviderBinDir`.
    /// Default: no plugins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_credential_provider_config: Option<PathBuf>,
    /// The directory of those plugins.
    /// Default: no plugins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_credential_provider_bin_dir: Option<PathBuf>,
    /// Directories that are searched for the node's registry credentials (`config.json`, else `.dockercfg`); the first
    /// file that is found counts.
    /// Default: `/var/lib/kubelet`, `/root/.docker`, `/.docker`.
    pub docker_config_dirs: Vec<PathBuf>,

    /// Where registries are configured, as containerd does it: `<host>/hosts.toml`. It need not exist.
    /// Default: `/etc/imagevol/certs.d`.
    pub registry_config_path: PathBuf,
    /// Registries, as `host` or `host:port`, that are asked over plain HTTP. Loopback ones always may be.
    /// Default: empty.
    #[serde(rename = "plainHTTPRegistries")]
    pub plain_http_registries: Vec<String>,
    /// The platform to choose from an image index, as `os/architecture` or `os/architecture/variant`.
    /// Default: this machine's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,

    /// What an image may be at most, and all of them together.
    pub limits: Limits,

    /// How full the file system of `stateDir` may be, in percent, before images that nobody needs are removed; 100 with
    /// `imageMaximumGCAge: 0s` turns garbage collection off.
    /// Default: `85`.
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub image_gc_high_threshold_percent: u8,
    /// How full it is when that stops; lower than `imageGCHighThresholdPercent`.
    /// Default: `80`.
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub image_gc_low_threshold_percent: u8,
    /// How long an image stays after it was first seen, whether somebody uses it or not.
    /// Default: `2m0s`.
    #[serde(rename = "imageMinimumGCAge")]
    pub image_minimum_gc_age: Duration,
    /// How long an image stays that nobody uses, however much space is free; 0 is for ever.
    /// Default: `0s`.
    #[serde(rename = "imageMaximumGCAge")]
    pub image_maximum_gc_age: Duration,

    /// The directory of `ImagePrefetch` files: images that are kept present. It need not exist.
    /// Default: `/etc/imagevol/prefetch`.
    pub prefetch_path: PathBuf,
    /// OCI image layouts that are looked at before the network. They are only read.
    /// Default: empty.
    pub additional_image_stores: Vec<AdditionalImageStore>,
    /// Whether and how fast what is stored is read again and held against its digests.
    pub scrub: ScrubConfiguration,

    /// The CSI driver `csi.imagevol.dev`, for the kubelet of this node.
    /// Default: no driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub csi: Option<CsiConfiguration>,
    /// The cluster that this node is part of.
    /// Default: none; pods come from `staticPodPath` alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<KubernetesConfiguration>,
}

/// The CSI driver. `csi: {}` is all that it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CsiConfiguration {
    /// The socket of the driver, which the kubelet calls.
    /// Default: `plugins/csi.imagevol.dev/csi.sock` in `rootDir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<PathBuf>,
    /// The directory in which the kubelet looks for new plugins.
    /// Default: `plugins_registry` in `rootDir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registration_dir: Option<PathBuf>,
    /// How long a mount waits for its image before the kubelet is asked to call again; the pull goes on. Between `1s` and
    /// `115s`: the kubelet gives up after two minutes.
    /// Default: `1m50s`.
    pub publish_timeout: Duration,
}

/// A directory with images that others keep: an OCI image layout (image spec, image-layout.md), on disk or NFS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdditionalImageStore {
    /// The directory.
    pub path: PathBuf,
    /// The repository of images whose name in the layout is a tag alone, or nothing.
    /// Default: such images are not found by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
}

/// Reading what is stored again and again, to find what the disk has lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ScrubConfiguration {
    /// How long after the end of one round the next begins; 0 is never.
    /// Default: `0s`.
    pub interval: Duration,
    /// Bytes that are read in a second, at most.
    /// Default: `50Mi`.
    pub max_bytes_per_second: Bytes,
}

/// The API server. `kubernetes: {}` is all that is needed in a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct KubernetesConfiguration {
    /// How to reach the API server.
    /// Default: as a pod does, with its service account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
    /// Whether images of the pods of this node are pulled as soon as the pods are bound.
    /// Default: `true`.
    pub prefetch: bool,
    /// Whether pods' `imagePullSecrets` are read. Needs the right to read secrets in every namespace.
    /// Default: `false`.
    pub image_pull_secrets: bool,
}

/// How the daemon logs, to standard error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LoggingConfiguration {
    /// `text` or `json`.
    /// Default: `text`.
    pub format: LogFormat,
    /// 0 for what an operator needs, 4 for debugging, 6 for everything, at most 10.
    /// Default: `0`.
    pub verbosity: u8,
}

/// What an image may be at most: larger ones are refused, whatever they contain. Sizes are bytes, or quantities
/// such as `100Gi`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// A manifest or an index, which is held in memory.
    /// Default: `4Mi`, the most that registries must take.
    pub max_manifest_bytes: Bytes,
    /// One layer, uncompressed, or one blob of an artifact.
    /// Default: `1Ti`.
    pub max_layer_bytes: Bytes,
    /// All layers of an image, uncompressed.
    /// Default: `4Ti`.
    pub max_image_bytes: Bytes,
    /// Files, directories and links of all layers of an image.
    /// Default: `20000000`.
    pub max_image_entries: u64,
    /// Layers of an image.
    /// Default: `512`.
    pub max_image_layers: u32,
    /// The metadata of an image, with all names and attributes, as it is mounted.
    /// Default: `1Gi`.
    pub max_index_bytes: Bytes,
    /// All images of the node together, on disk; 0 is no limit.
    /// Default: `0`.
    pub max_store_bytes: Bytes,
    /// What pulls leave free on the file system of `stateDir`.
    /// Default: `64Mi`.
    pub min_free_bytes: Bytes,
}

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is longer than a configuration file may be.
    #[error("configuration is longer than {MAX_CONFIG_BYTES} bytes")]
    TooLarge,
    /// The file is no YAML, or has a field that is unknown, is there twice, or has a value of the wrong type.
    #[error("configuration cannot be read")]
    Parse(#[source] Box<serde_saphyr::Error>),
    /// The file is a configuration of something else, or of a version that is not known.
    #[error("configuration must be of apiVersion {API_VERSION} and kind {KIND}, not {api_version:?} and {kind:?}")]
    Type {
        /// As written; empty where nothing is.
        api_version: String,
        /// As written; empty where nothing is.
        kind: String,
    },
    /// Fields have values that cannot be used.
    #[error("configuration is invalid: {}", list(.0))]
    Invalid(Vec<FieldError>),
}

/// The head of every versioned file; the rest is not looked at.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TypeMeta {
    api_version: String,
    kind: String,
}

// === impl ImagevolConfiguration ===

impl ImagevolConfiguration {
    /// Reads a file, strictly, and checks it.
    pub fn parse(yaml: &str) -> Result<Self, ConfigError> {
        if yaml.len() > MAX_CONFIG_BYTES {
            return Err(ConfigError::TooLarge);
        }
        let TypeMeta { api_version, kind } = read(yaml)?;
        if api_version != API_VERSION || kind != KIND {
            return Err(ConfigError::Type { api_version, kind });
        }
        let configuration: Self = read(yaml)?;
        configuration.validate()?;
        Ok(configuration)
    }

    /// Checks values that depend on each other or on more than their type. To be called again after flags have changed
    /// some.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let errors = validate::errors(self);
        if errors.is_empty() { Ok(()) } else { Err(ConfigError::Invalid(errors)) }
    }

    /// `rootDir`, or its default.
    pub fn root_dir(&self) -> PathBuf {
        let default = || if self.csi.is_some() { KUBELET_ROOT.into() } else { self.state_dir.join("kubelet") };
        self.root_dir.clone().unwrap_or_else(default)
    }

    /// The socket of the CSI driver; `None` without one.
    pub fn csi_endpoint(&self) -> Option<PathBuf> {
        let default = || self.root_dir().join("plugins").join(CSI_DRIVER).join("csi.sock");
        self.csi.as_ref().map(|csi| csi.endpoint.clone().unwrap_or_else(default))
    }

    /// Where the kubelet looks for plugins; `None` without a CSI driver.
    pub fn csi_registration_dir(&self) -> Option<PathBuf> {
        let default = || self.root_dir().join("plugins_registry");
        self.csi.as_ref().map(|csi| csi.registration_dir.clone().unwrap_or_else(default))
    }

    /// `socket`, or its default.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| default_socket(&self.run_dir))
    }
}

impl Default for ImagevolConfiguration {
    fn default() -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            state_dir: "/var/lib/imagevol".into(),
            run_dir: "/run/imagevol".into(),
            root_dir: None,
            static_pod_path: "/etc/imagevol/manifests".into(),
            socket: None,
            metrics_address: SocketAddr::from((Ipv4Addr::LOCALHOST, 9690)),
            node_name: None,
            file_check_frequency: Duration::from_secs(20),
            event_ttl: Duration::from_secs(60 * 60),
            shutdown_grace_period: Duration::from_secs(10),
            logging: LoggingConfiguration::default(),
            image_backend: ImageBackend::Auto,
            noexec: false,
            serialize_image_pulls: false,
            max_parallel_image_pulls: None,
            registry_pull_qps: 0,
            registry_burst: 10,
            max_blobs_per_pull: 3,
            max_blobs_per_node: 8,
            image_pull_progress_timeout: Duration::from_secs(5 * 60),
            pull_failure_policy: PullFailurePolicy::Fail,
            pull_deadline: Duration::from_secs(5 * 60),
            abandoned_pull_grace_period: Duration::from_secs(30),
            image_pull_credentials_verification_policy: ImagePullCredentialsVerificationPolicy::default(),
            preloaded_images_verification_allowlist: Vec::new(),
            image_credential_provider_config: None,
            image_credential_provider_bin_dir: None,
            docker_config_dirs: ["/var/lib/kubelet", "/root/.docker", "/.docker"].map(PathBuf::from).to_vec(),
            registry_config_path: "/etc/imagevol/certs.d".into(),
            plain_http_registries: Vec::new(),
            platform: None,
            limits: Limits::default(),
            image_gc_high_threshold_percent: 85,
            image_gc_low_threshold_percent: 80,
            image_minimum_gc_age: Duration::from_secs(2 * 60),
            image_maximum_gc_age: Duration::ZERO,
            prefetch_path: "/etc/imagevol/prefetch".into(),
            additional_image_stores: Vec::new(),
            scrub: ScrubConfiguration::default(),
            csi: None,
            kubernetes: None,
        }
    }
}

impl Default for CsiConfiguration {
    fn default() -> Self {
        // The kubelet's calls end after two minutes (csi_client.go, `csiTimeout`): an answer in time costs the pod no back-off.
        Self { endpoint: None, registration_dir: None, publish_timeout: Duration::from_secs(110) }
    }
}

impl Default for KubernetesConfiguration {
    fn default() -> Self {
        Self { kubeconfig: None, prefetch: true, image_pull_secrets: false }
    }
}

impl Default for LoggingConfiguration {
    fn default() -> Self {
        Self { format: LogFormat::Text, verbosity: 0 }
    }
}

impl Default for ScrubConfiguration {
    fn default() -> Self {
        // A quarter of what a slow disk reads.
        Self { interval: Duration::ZERO, max_bytes_per_second: Bytes::new(50 << 20) }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // OCI distribution spec, "Pushing Manifests": registries should take at least 4 MiB.
            max_manifest_bytes: Bytes::new(4 << 20),
            max_layer_bytes: Bytes::new(1 << 40),
            max_image_bytes: Bytes::new(4 << 40),
            max_image_entries: 20_000_000,
            max_image_layers: 512,
            max_index_bytes: Bytes::new(1 << 30),
            max_store_bytes: Bytes::new(0),
            // The database must be able to grow while images are removed.
            min_free_bytes: Bytes::new(64 << 20),
        }
    }
}

/// The daemon's socket in a run directory.
pub fn default_socket(run_dir: &Path) -> PathBuf {
    run_dir.join("imagevold.sock")
}

fn read<'y, T: Deserialize<'y>>(yaml: &'y str) -> Result<T, ConfigError> {
    serde_saphyr::from_str(yaml).map_err(|error| ConfigError::Parse(Box::new(error)))
}

fn list(errors: &[FieldError]) -> String {
    errors.iter().map(FieldError::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests;
