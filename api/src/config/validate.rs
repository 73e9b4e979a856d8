//! Checks of a configuration that its types do not make.

use std::ops::RangeInclusive;
use std::path::{self, PathBuf};

use super::allowlist;
use super::{ImagePullCredentialsVerificationPolicy, ImagevolConfiguration, Limits};
use crate::core::field::{FieldError, Path};
use crate::core::validation::dns_subdomain;
use crate::duration::Duration;
use crate::oci::{Platform, Reference};

/// Longest path of a unix socket, with its final NUL (unix(7), `sun_path`).
const SOCKET_PATH_MAX: usize = 108;
/// Shorter makes the kubelet's back-off the clock of a pull; longer meets the end of its calls (csi_client.go, `csiTimeout`: two minutes).
const PUBLISH_TIMEOUT: RangeInclusive<std::time::Duration> =
    std::time::Duration::from_secs(1)..=std::time::Duration::from_secs(115);
/// More says nothing more (klog knows 10 levels).
const VERBOSITY_MAX: u8 = 10;

/// Every error, in the order of the fields.
pub(super) fn errors(configuration: &ImagevolConfiguration) -> Vec<FieldError> {
    let mut errors = paths(configuration);
    errors.extend(durations(configuration));
    errors.extend(node(configuration));
    errors.extend(pulls(configuration));
    errors.extend(registries(configuration));
    errors.extend(credential_providers(configuration));
    errors.extend(limits(&configuration.limits));
    errors.extend(collection(configuration));
    errors.extend(additional_stores(configuration));
    errors.extend(scrub(configuration));
    errors.extend(csi(configuration));
    errors
}

fn paths(configuration: &ImagevolConfiguration) -> Vec<FieldError> {
    let paths = [
        ("stateDir", Some(&configuration.state_dir)),
        ("runDir", Some(&configuration.run_dir)),
        ("rootDir", configuration.root_dir.as_ref()),
        ("staticPodPath", Some(&configuration.static_pod_path)),
        ("socket", configuration.socket.as_ref()),
        ("registryConfigPath", Some(&configuration.registry_config_path)),
        ("prefetchPath", Some(&configuration.prefetch_path)),
        ("imageCredentialProviderConfig", configuration.image_credential_provider_config.as_ref()),
        ("imageCredentialProviderBinDir", configuration.image_credential_provider_bin_dir.as_ref()),
    ];
    let paths =
        paths.into_iter().filter_map(|(field, path)| Some((Path::new(field), path?))).chain(doors(configuration));
    let of_docker = Path::new("dockerConfigDirs");
    let of_docker =
        configuration.docker_config_dirs.iter().enumerate().map(|(index, dir)| (of_docker.index(index), dir));
    let mut errors: Vec<_> = paths.chain(of_docker).filter_map(|(field, path)| absolute(&field, path)).collect();
    let too_long = |path: &path::Path| path.as_os_str().len() >= SOCKET_PATH_MAX;
    if too_long(&configuration.socket()) {
        errors.push(Path::new("socket").too_long(SOCKET_PATH_MAX - 1));
    }
    if configuration.csi_endpoint().is_some_and(|endpoint| too_long(&endpoint)) {
        errors.push(Path::new("csi").child("endpoint").too_long(SOCKET_PATH_MAX - 1));
    }
    errors
}

/// The paths of the ways into a cluster.
fn doors(configuration: &ImagevolConfiguration) -> impl Iterator<Item = (Path, &PathBuf)> {
    let csi = configuration.csi.iter().flat_map(|csi| {
        let paths = [("endpoint", csi.endpoint.as_ref()), ("registrationDir", csi.registration_dir.as_ref())];
        paths.into_iter().filter_map(|(field, path)| Some((Path::new("csi").child(field), path?)))
    });
    let kubeconfig = configuration.kubernetes.as_ref().and_then(|kubernetes| kubernetes.kubeconfig.as_ref());
    csi.chain(kubeconfig.map(|path| (Path::new("kubernetes").child("kubeconfig"), path)))
}

fn csi(configuration: &ImagevolConfiguration) -> Vec<FieldError> {
    let timeout = configuration.csi.as_ref().map(|csi| csi.publish_timeout);
    let wrong = timeout.filter(|timeout| !PUBLISH_TIMEOUT.contains(&std::time::Duration::from(*timeout)));
    let field = Path::new("csi").child("publishTimeout");
    wrong.map(|timeout| field.invalid(&*timeout.to_string(), "must be between 1s and 115s")).into_iter().collect()
}

/// A plugin needs both: the file says which, the directory where.
fn credential_providers(configuration: &ImagevolConfiguration) -> Option<FieldError> {
    let (file, dir) =
        (&configuration.image_credential_provider_config, &configuration.image_credential_provider_bin_dir);
    let message = "imageCredentialProviderConfig and imageCredentialProviderBinDir need each other";
    let (field, path) = match (file, dir) {
        (Some(file), None) => ("imageCredentialProviderConfig", file),
        (None, Some(dir)) => ("imageCredentialProviderBinDir", dir),
        (Some(_), Some(_)) | (None, None) => return None,
    };
    Some(Path::new(field).invalid(path.to_string_lossy().as_ref(), message))
}

/// Paths must mean the same wherever the daemon is started, and not climb.
fn absolute(field: &Path, path: &path::Path) -> Option<FieldError> {
    let climbs = path.components().any(|part| part == path::Component::ParentDir);
    let shown = path.to_string_lossy();
    (!path.is_absolute() || climbs).then(|| field.invalid(shown.as_ref(), "must be an absolute path without '..'"))
}

fn durations(configuration: &ImagevolConfiguration) -> Vec<FieldError> {
    let fields = [
        ("fileCheckFrequency", configuration.file_check_frequency),
        ("eventTTL", configuration.event_ttl),
        ("pullDeadline", configuration.pull_deadline),
    ];
    let zero = fields.into_iter().filter(|(_, duration)| duration.is_zero());
    zero.map(|(field, _)| Path::new(field).invalid(&*Duration::ZERO.to_string(), "must be greater than zero")).collect()
}

fn node(configuration: &ImagevolConfiguration) -> Vec<FieldError> {
    let name = configuration.node_name.as_deref();
    let messages = name.map(|name| (name, dns_subdomain(name)));
    let field = Path::new("nodeName");
    let mut errors: Vec<_> = messages
        .into_iter()
        .flat_map(|(name, messages)| {
            messages.into_iter().map(|message| field.invalid(name, message)).collect::<Vec<_>>()
        })
        .collect();
    let verbosity = configuration.logging.verbosity;
    if verbosity > VERBOSITY_MAX {
        let field = Path::new("logging").child("verbosity");
        errors.push(field.invalid(i32::from(verbosity), format!("must be no more than {VERBOSITY_MAX}")));
    }
    errors
}

fn pulls(configuration: &ImagevolConfiguration) -> Vec<FieldError> {
    let at_least_one = [
        ("maxParallelImagePulls", configuration.max_parallel_image_pulls.unwrap_or(1)),
        ("maxBlobsPerPull", configuration.max_blobs_per_pull),
        ("maxBlobsPerNode", configuration.max_blobs_per_node),
    ];
    let zero = at_least_one.into_iter().filter(|(_, number)| *number == 0);
    let mut errors: Vec<_> =
        zero.map(|(field, _)| Path::new(field).invalid(0_i32, "must be a positive number")).collect();
    if configuration.serialize_image_pulls && configuration.max_parallel_image_pulls.is_some_and(|number| number > 1) {
        let message = "cannot be larger than 1 unless serializeImagePulls is set to false";
        errors.push(Path::new("maxParallelImagePulls").forbidden(message));
    }
    if configuration.registry_pull_qps > 0 && configuration.registry_burst == 0 {
        errors.push(Path::new("registryBurst").invalid(0_i32, "must be a positive number if registryPullQPS is set"));
    }
    errors.extend(allowlist(configuration));
    errors
}

fn allowlist(configuration: &ImagevolConfiguration) -> Vec<FieldError> {
    let field = Path::new("preloadedImagesVerificationAllowlist");
    let entries = &configuration.preloaded_images_verification_allowlist;
    let policy = configuration.image_pull_credentials_verification_policy;
    if !entries.is_empty() && policy != ImagePullCredentialsVerificationPolicy::NeverVerifyAllowlistedImages {
        let message = "can only be set if imagePullCredentialsVerificationPolicy is NeverVerifyAllowlistedImages";
        return vec![field.forbidden(message)];
    }
    let bad = entries.iter().enumerate().filter_map(|(index, entry)| {
        let error = allowlist::check(entry).err()?;
        Some(field.index(index).invalid(entry.as_str(), error.to_string()))
    });
    bad.collect()
}

fn registries(configuration: &ImagevolConfiguration) -> Vec<FieldError> {
    let field = Path::new("plainHTTPRegistries");
    let hosts = configuration.plain_http_registries.iter().enumerate();
    let bad = hosts.filter(|(_, host)| !is_registry(host));
    let mut errors: Vec<_> =
        bad.map(|(index, host)| field.index(index).invalid(host.as_str(), "must be a host or host:port")).collect();
    if let Some(platform) = configuration.platform.as_deref().filter(|platform| platform.parse::<Platform>().is_err()) {
        let message = "must be os/architecture or os/architecture/variant, in lower case";
        errors.push(Path::new("platform").invalid(platform, message));
    }
    errors
}

fn limits(limits: &Limits) -> Vec<FieldError> {
    let limit = Path::new("limits");
    let fields = [
        ("maxManifestBytes", limits.max_manifest_bytes.get()),
        ("maxLayerBytes", limits.max_layer_bytes.get()),
        ("maxImageBytes", limits.max_image_bytes.get()),
        ("maxImageEntries", limits.max_image_entries),
        ("maxImageLayers", limits.max_image_layers.into()),
        ("maxIndexBytes", limits.max_index_bytes.get()),
    ];
    let zero = fields.into_iter().filter(|(_, number)| *number == 0);
    zero.map(|(field, _)| limit.child(field).invalid(0_i32, "must be a positive number")).collect()
}

/// The kubelet's rules, with its texts (pkg/kubelet/images/image_gc_manager.go, `NewImageGCManager`).
fn collection(configuration: &ImagevolConfiguration) -> Vec<FieldError> {
    let (high, low) = (configuration.image_gc_high_threshold_percent, configuration.image_gc_low_threshold_percent);
    let (high_field, low_field) = (Path::new("imageGCHighThresholdPercent"), Path::new("imageGCLowThresholdPercent"));
    let fields = [(&high_field, "HighThresholdPercent", high), (&low_field, "LowThresholdPercent", low)];
    let mut errors = Vec::new();
    for (field, name, percent) in fields {
        if percent > 100 {
            let message = format!("invalid {name} {percent}, must be in range [0-100]");
            errors.push(field.invalid(i32::from(percent), message));
        }
    }
    if low > high {
        let message = format!("LowThresholdPercent {low} can not be higher than HighThresholdPercent {high}");
        errors.push(low_field.invalid(i32::from(low), message));
    }
    errors
}

fn additional_stores(configuration: &ImagevolConfiguration) -> Vec<FieldError> {
    let field = Path::new("additionalImageStores");
    let mut errors = Vec::new();
    for (index, store) in configuration.additional_image_stores.iter().enumerate() {
        let field = field.index(index);
        errors.extend(absolute(&field.child("path"), &store.path));
        let repository = store.repository.as_deref();
        if let Some(repository) = repository.filter(|repository| !is_repository(repository)) {
            let message = "must be an image name without tag or digest";
            errors.push(field.child("repository").invalid(repository, message));
        }
    }
    errors
}

fn is_repository(name: &str) -> bool {
    Reference::parse(name).is_ok_and(|reference| reference.tag().is_none() && reference.digest().is_none())
}

fn scrub(configuration: &ImagevolConfiguration) -> Option<FieldError> {
    let field = Path::new("scrub").child("maxBytesPerSecond");
    (configuration.scrub.max_bytes_per_second.get() == 0).then(|| field.invalid(0_i32, "must be a positive number"))
}

/// Whether a reference could name this registry. The scheme of a URL or a path would never match one.
fn is_registry(host: &str) -> bool {
    Reference::parse(&format!("{host}/x/y"))
        .is_ok_and(|reference| reference.domain() == host && reference.path() == "x/y")
}
