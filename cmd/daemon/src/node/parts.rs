//! The parts of the node, each from its share of the configuration.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use imagevol_api::config::{ImageBackend, ImagevolConfiguration};
use imagevol_api::oci::Reference;
use imagevol_base::collection::Collection;
use imagevol_base::volumes::VolumeReports;
use imagevol_base::{EventRecorder, Holder, MountTableWatch, Supervisor};
use imagevol_controlplane::status::PullFailure;
use imagevol_controlplane::{ControlPlane, ControlPlaneSettings, StatusDb, WallClock};
use imagevol_cri::ImageReferences;
use imagevol_images::{
    BackoffLimits, CredentialProviders, ImageManager, NodeConfigPaths, ParallelPulls, PullLimits, PullManager,
    PullRate, PullSecrets, VerificationPolicy,
};
use imagevol_imageservice::{AdditionalImageStore, Concurrency, EmbeddedImageService, SurvivorOf};
use imagevol_mount::{Backend, Exec, Interface, NoBackend, ProbeReport, Requested};
use imagevol_registry::{Platform, Proxies, Registry, RegistryConfig};
use imagevol_store::Store;
use imagevol_volume::{Host, ImagePlugin, Key, PluginManager};
use imagevol_volumemanager::VolumeManager;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::cluster::Cluster;
use super::{Images, Metrics};

/// A timeout that nobody lives to see: clocks can be asked to add it without overflow.
const FOR_EVER: Duration = Duration::from_hours(10 * 365 * 24);

/// What start-up opens on disk, and finds out about the kernel.
pub(super) struct Opened {
    pub(super) store: Store,
    pub(super) status: StatusDb,
    pub(super) backend: Result<Backend, NoBackend>,
}

/// Directories that pods' mounts and sockets lie in; root only but for the kubelet-shaped root, which others' processes walk.
fn make_dirs(config: &ImagevolConfiguration) -> anyhow::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    let make = |path: &Path, mode: u32| {
        let made = std::fs::DirBuilder::new().recursive(true).mode(mode).create(path);
        made.with_context(|| format!("cannot make directory {}", path.display()))
    };
    // One that somebody else has made, as a kubelet does for a hostPath, is as open as theirs.
    let make_own = |path: &Path| {
        make(path, 0o700)?;
        let closed = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700));
        closed.with_context(|| format!("cannot close directory {} to others", path.display()))
    };
    make_own(&config.state_dir)?;
    make_own(&config.run_dir)?;
    make_own(&config.run_dir.join("staging"))?;
    make(&config.root_dir(), 0o750)
}

/// Opens the store, which clears away what a kill left, and tries the back ends on its file system.
pub(super) async fn open(config: ImagevolConfiguration) -> anyhow::Result<Opened> {
    tokio::task::spawn_blocking(move || open_now(&config)).await.context("start-up task")?
}

fn open_now(config: &ImagevolConfiguration) -> anyhow::Result<Opened> {
    make_dirs(config)?;
    let limits = imagevol_store::Limits {
        // No layer is larger than its image, whatever it is allowed alone.
        max_layer_bytes: config.limits.max_layer_bytes.get().min(config.limits.max_image_bytes.get()),
        max_index_bytes: config.limits.max_index_bytes.get(),
        max_entries: config.limits.max_image_entries,
        max_store_bytes: config.limits.max_store_bytes.get(),
        min_free_bytes: config.limits.min_free_bytes.get(),
    };
    let store = Store::open(&config.state_dir, limits)
        .with_context(|| format!("cannot open the store in {}", config.state_dir.display()))?;
    let status = StatusDb::open(&config.state_dir.join("status.redb")).context("cannot open status.redb")?;
    let report = probe(config, &store).context("cannot try to mount images")?;
    tracing::debug!(?report, "probed the kernel");
    let requested = match config.image_backend {
        ImageBackend::Auto => Requested::Auto,
        ImageBackend::Erofs => Requested::Erofs,
        ImageBackend::ErofsLoop => Requested::ErofsLoop,
    };
    let backend = imagevol_mount::choose(requested, &report);
    Ok(Opened { store, status, backend })
}

/// The daemon must start on a full disk too: it is what removes images.
fn probe(config: &ImagevolConfiguration, store: &Store) -> anyhow::Result<ProbeReport> {
    // In a directory of its own: killed in the middle, the probe's mount must not cover what lies in the run directory.
    let scratch = config.run_dir.join("probe");
    let probe = || imagevol_mount::probe(&config.state_dir, &scratch);
    match probe() {
        Err(error) if error.is_no_space() => {
            tracing::warn!("the disk is full: trying to mount images in the room of the reserve");
            Ok(store.lending_reserve(probe)??)
        }
        report => Ok(report?),
    }
}

pub(super) fn node_name(config: &ImagevolConfiguration) -> anyhow::Result<String> {
    if let Some(name) = &config.node_name {
        return Ok(name.clone());
    }
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").context("cannot read the host's name")?;
    Ok(name.trim().to_lowercase())
}

/// The image service, and what it tells of images that it removed to make room.
pub(super) fn image_service(
    config: &ImagevolConfiguration,
    (store, backend): (Store, Backend),
    mounts: Arc<dyn Interface>,
    supervisor: &Supervisor,
) -> anyhow::Result<(EmbeddedImageService, mpsc::UnboundedReceiver<Collection>)> {
    let registry = Registry::new(registry_config(config)?, supervisor);
    let service = EmbeddedImageService::new(imagevol_imageservice::Parts {
        store,
        registry: Arc::new(registry),
        survivor_of: survivor_of(config, &mounts),
        mounts,
        backend,
        staging_dir: config.run_dir.join("staging"),
        platform: platform(config),
        concurrency: Concurrency {
            blobs_per_pull: size(config.max_blobs_per_pull),
            blobs_per_node: size(config.max_blobs_per_node),
            abandoned_grace: config.abandoned_pull_grace_period.into(),
        },
        limits: imagevol_imageservice::Limits {
            max_blob_bytes: config.limits.max_layer_bytes.get(),
            max_image_bytes: config.limits.max_image_bytes.get(),
            min_gc_age: config.image_minimum_gc_age.into(),
        },
        supervisor: supervisor.child("imageservice"),
    });
    let (made_room, notes) = mpsc::unbounded_channel();
    Ok((service.with_additional_stores(additional_stores(config)).telling_of_room(made_room), notes))
}

/// The configuration's checks see to it that a repository is one.
fn additional_stores(config: &ImagevolConfiguration) -> Vec<AdditionalImageStore> {
    let store = |store: &imagevol_api::config::AdditionalImageStore| AdditionalImageStore {
        path: store.path.clone(),
        repository: store.repository.as_deref().and_then(|repository| Reference::parse(repository).ok()),
    };
    config.additional_image_stores.iter().map(store).collect()
}

/// Where a holder's volume is mounted, if it is a volume.
fn survivor_of(config: &ImagevolConfiguration, mounts: &Arc<dyn Interface>) -> SurvivorOf {
    let host = Host::new(config.root_dir(), Arc::clone(mounts));
    Arc::new(move |holder: &Holder| Key::of_holder(holder.clone()).map(|key| host.path(&key)))
}

fn registry_config(config: &ImagevolConfiguration) -> anyhow::Result<RegistryConfig> {
    let mut registry = RegistryConfig {
        hosts_dir: Some(config.registry_config_path.clone()),
        plain_http: config.plain_http_registries.clone(),
        proxies: Proxies::from_env(|name| std::env::var(name).ok()).context("proxy settings of the environment")?,
        ..RegistryConfig::default()
    };
    registry.limits.manifest = config.limits.max_manifest_bytes.get();
    registry.limits.layers = size(config.limits.max_image_layers);
    let idle: Duration = config.image_pull_progress_timeout.into();
    registry.timeouts.idle = if idle.is_zero() { FOR_EVER } else { idle };
    Ok(registry)
}

fn platform(config: &ImagevolConfiguration) -> Platform {
    let Some(platform) = &config.platform else { return Platform::host() };
    let mut parts = platform.split('/');
    let (os, architecture) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    Platform::new(os, architecture, parts.next())
}

fn control_settings(config: &ImagevolConfiguration, node_name: &str) -> ControlPlaneSettings {
    ControlPlaneSettings {
        manifest_dir: config.static_pod_path.clone(),
        node_name: node_name.to_owned(),
        file_check_frequency: config.file_check_frequency.into(),
        pull_failure: PullFailure { policy: config.pull_failure_policy, deadline: config.pull_deadline.into() },
        event_ttl: config.event_ttl.into(),
        clock: WallClock::system(),
    }
}

pub(super) async fn control_plane(
    config: &ImagevolConfiguration,
    node_name: &str,
    cluster: Option<&Cluster>,
    db: StatusDb,
    supervisor: &Supervisor,
) -> anyhow::Result<ControlPlane> {
    let settings = control_settings(config, node_name);
    let started = match cluster {
        Some(cluster) => ControlPlane::start_in_cluster(settings, cluster.server(), db, supervisor).await,
        None => ControlPlane::start(settings, db, supervisor).await,
    };
    started.context("control plane")
}

pub(super) fn image_manager(
    config: &ImagevolConfiguration,
    service: &Arc<Images>,
    secrets: Arc<dyn PullSecrets>,
    events: &Arc<dyn EventRecorder>,
    metrics: &Metrics,
) -> anyhow::Result<Arc<ImageManager<Images>>> {
    let policy = config.image_pull_credentials_verification_policy;
    let policy = VerificationPolicy::new(policy, &config.preloaded_images_verification_allowlist)?;
    let records = PullManager::open(&config.state_dir, policy, metrics.images.clone());
    Ok(Arc::new(ImageManager::new(imagevol_images::Parts {
        service: Arc::clone(service),
        events: Arc::clone(events),
        secrets,
        node_config: node_config_paths(config),
        providers: credential_providers(config, metrics)?,
        records: records.context("cannot open the pull records")?,
        limits: pull_limits(config),
        backoff: BackoffLimits::default(),
        metrics: metrics.images.clone(),
    })))
}

/// The manager of volumes, and where it reports what became of them.
pub(super) fn volume_manager(
    plugin: ImagePlugin<Images>,
    (host, supervisor): (&Host, &Supervisor),
    service: &Arc<EmbeddedImageService>,
    events: Arc<dyn EventRecorder>,
    metrics: &Metrics,
) -> (VolumeManager, watch::Receiver<Option<Arc<VolumeReports>>>) {
    VolumeManager::new(imagevol_volumemanager::Parts {
        plugins: PluginManager::new(vec![Arc::new(plugin)]),
        host: host.clone(),
        references: Arc::clone(service) as Arc<dyn ImageReferences>,
        events,
        metrics: metrics.volumes.clone(),
        mount_table: mount_table(supervisor),
    })
}

/// Changes of the mount table; never one, said in the log, if they cannot be had: volumes that others unmount then stay so.
fn mount_table(supervisor: &Supervisor) -> watch::Receiver<()> {
    match MountTableWatch::new() {
        Ok(table) => table.follow(supervisor),
        Err(error) => {
            tracing::error!(%error, "cannot watch the mount table: what others unmount is not mounted again");
            watch::channel(()).1
        }
    }
}

fn pull_limits(config: &ImagevolConfiguration) -> PullLimits {
    let parallel = match (config.serialize_image_pulls, config.max_parallel_image_pulls.and_then(NonZeroU32::new)) {
        (true, _) => ParallelPulls::Serial,
        (false, Some(most)) => ParallelPulls::AtMost(most),
        (false, None) => ParallelPulls::Unlimited,
    };
    let rate = || PullRate { qps: f64::from(config.registry_pull_qps), burst: config.registry_burst };
    PullLimits { parallel, rate: (config.registry_pull_qps > 0).then(rate) }
}

/// The configuration's checks see to it that there are both or none.
fn credential_providers(config: &ImagevolConfiguration, metrics: &Metrics) -> anyhow::Result<CredentialProviders> {
    match (&config.image_credential_provider_config, &config.image_credential_provider_bin_dir) {
        (Some(file), Some(dir)) => Ok(CredentialProviders::load(file, dir, &metrics.images)?),
        (Some(_), None) | (None, _) => Ok(CredentialProviders::default()),
    }
}

fn node_config_paths(config: &ImagevolConfiguration) -> NodeConfigPaths {
    let dirs = config.docker_config_dirs.clone();
    NodeConfigPaths { config_json_dirs: dirs.clone(), dockercfg_dirs: dirs }
}

pub(super) fn exec(config: &ImagevolConfiguration) -> Exec {
    if config.noexec { Exec::Deny } else { Exec::Allow }
}

/// Content that no image names and downloads that nobody goes on with end after a day; looked at this often.
const EXPIRY_CHECK: Duration = Duration::from_hours(1);

/// Lets unfinished content expire for as long as the daemon runs; at start the store does it itself.
pub(super) async fn expire_unfinished(store: Store, cancel: CancellationToken) {
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(EXPIRY_CHECK) => {}
        }
        let store = store.clone();
        match tokio::task::spawn_blocking(move || store.expire()).await {
            Ok(Ok(removed)) if removed.freed_bytes > 0 => {
                tracing::info!(bytes = removed.freed_bytes, "unfinished content has expired");
            }
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::error!(error = &error as &dyn std::error::Error, "unfinished content cannot expire");
            }
            Err(error) => tracing::error!(%error, "unfinished content cannot expire"),
        }
    }
}

fn size(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
