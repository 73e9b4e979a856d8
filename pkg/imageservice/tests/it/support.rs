//! A node for each test: a store in a directory of its own, and a service over it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use imagevol_api::auth::Credential;
use imagevol_base::Supervisor;
use imagevol_cri::{
    Holder, ImageCollector as _, ImageId, ImageReferences as _, ImageService as _, ImageServiceError, ImageSpec,
    Progress,
};
use imagevol_imageservice::{Concurrency, EmbeddedImageService, Limits, Parts};
use imagevol_mount::{Backend, Kernel};
use imagevol_registry::{Platform, Registry, RegistryConfig, Retries};
use imagevol_store::Store;
use tempfile::TempDir;

/// A directory on a disk: files on tmpfs cannot be mounted.
const DISK: &str = "/var/tmp";

/// Where volumes of holders are mounted, as far as a test says.
pub(crate) type Volumes = Arc<Mutex<Vec<(Holder, PathBuf)>>>;

/// A service and everything beneath it.
pub(crate) struct Node {
    pub(crate) dir: TempDir,
    pub(crate) service: EmbeddedImageService,
    pub(crate) volumes: Volumes,
    supervisor: Supervisor,
    limits: Caps,
}

/// Limits of the store, and of the service.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Caps {
    pub(crate) store: imagevol_store::Limits,
    pub(crate) service: Limits,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self::with_limits(imagevol_store::Limits::default())
    }

    pub(crate) fn with_limits(store: imagevol_store::Limits) -> Self {
        Self::with_caps(Caps { store, ..Caps::default() })
    }

    pub(crate) fn with_caps(limits: Caps) -> Self {
        Self::over(tempfile::tempdir_in(DISK).unwrap(), limits, RegistryConfig::default())
    }

    /// A node whose hosts directory says `hosts_toml` of `registry`.
    pub(crate) fn with_hosts(registry: &str, hosts_toml: &str) -> Self {
        let dir = tempfile::tempdir_in(DISK).unwrap();
        let host = dir.path().join("hosts").join(registry);
        std::fs::create_dir_all(&host).unwrap();
        std::fs::write(host.join("hosts.toml"), hosts_toml).unwrap();
        let config = RegistryConfig { hosts_dir: Some(dir.path().join("hosts")), ..RegistryConfig::default() };
        Self::over(dir, Caps::default(), config)
    }

    fn over(dir: TempDir, limits: Caps, config: RegistryConfig) -> Self {
        imagevol_test_support::install_crypto();
        let (supervisor, volumes) = (Supervisor::new("test"), Volumes::default());
        let service = service(dir.path(), limits, config, &supervisor, &volumes);
        Self { dir, service, volumes, supervisor, limits }
    }

    /// Another process over the same directories, after this one was ended.
    pub(crate) async fn again(self) -> Self {
        assert!(self.supervisor.shut_down(Duration::from_mins(1)).await);
        let Self { dir, service, limits, .. } = self;
        drop(service);
        // A writer that was cut off ends by itself; until then it has the store open.
        while Store::open(&dir.path().join("state"), limits.store).is_err() {
            tokio::task::yield_now().await;
        }
        Self::over(dir, limits, RegistryConfig::default())
    }

    pub(crate) async fn pull(&self, reference: &str, holder: &Holder) -> Result<ImageId, ImageServiceError> {
        self.pull_with(reference, holder, &Progress::default()).await
    }

    pub(crate) async fn pull_with(
        &self,
        reference: &str,
        holder: &Holder,
        progress: &Progress,
    ) -> Result<ImageId, ImageServiceError> {
        self.pull_as(&Credential::Anonymous, reference, holder, progress).await
    }

    pub(crate) async fn pull_as(
        &self,
        credential: &Credential,
        reference: &str,
        holder: &Holder,
        progress: &Progress,
    ) -> Result<ImageId, ImageServiceError> {
        let spec = ImageSpec { image: reference.to_owned(), ..ImageSpec::default() };
        self.service.hold(holder, reference).await?;
        self.service.pull(&spec, credential, holder, progress).await
    }

    pub(crate) fn assert_sound(&self) {
        let report = self.service.store().fsck().unwrap();
        assert_eq!(report.problems, Vec::<String>::new());
    }

    /// The names of downloads under way.
    pub(crate) fn ingest(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path().join("state/ingest")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }
}

fn service(
    dir: &Path,
    limits: Caps,
    mut config: RegistryConfig,
    supervisor: &Supervisor,
    volumes: &Volumes,
) -> EmbeddedImageService {
    config.retries = Retries {
        attempts: 3,
        min_delay: Duration::from_millis(1),
        max_delay: Duration::from_millis(2),
        max_retry_after: Duration::from_secs(5),
    };
    let (volumes, staging_dir) = (Arc::clone(volumes), dir.join("staging"));
    std::fs::create_dir_all(&staging_dir).unwrap();
    let service = EmbeddedImageService::new(Parts {
        store: Store::open(&dir.join("state"), limits.store).unwrap(),
        registry: Arc::new(Registry::new(config, supervisor)),
        mounts: Arc::new(Kernel),
        backend: Backend::Erofs,
        staging_dir,
        survivor_of: Arc::new(move |holder| {
            let volumes = volumes.lock().unwrap();
            volumes.iter().find(|(known, _)| known == holder).map(|(_, path)| path.clone())
        }),
        platform: Platform::new("linux", "amd64", None),
        concurrency: Concurrency::default(),
        limits: limits.service,
        supervisor: supervisor.child("imageservice"),
    });
    service.turns().open();
    service
}

/// The holder that is volume `data` of a pod.
pub(crate) fn volume(pod: &str) -> Holder {
    Holder::Volume { pod: pod.parse().unwrap(), volume: "data".parse().unwrap() }
}

/// Waits until `done` says so; what it looks at is changed by other tasks.
pub(crate) async fn until(done: impl Fn() -> bool) {
    while !done() {
        tokio::task::yield_now().await;
    }
}
