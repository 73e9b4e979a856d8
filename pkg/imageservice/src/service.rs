//! The service itself: the contracts of `cri`, met over registry, store and mounts.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use imagevol_api::auth::Credential;
use imagevol_api::oci::{Digest, ImagePattern, Reference};
use imagevol_base::collection::{Collection, Turns};
use imagevol_base::{Holder, SingleFlight, Supervisor};
use imagevol_cri::{
    FilesystemUsage, Image, ImageId, ImageMounts, ImageReferences, ImageService, ImageServiceError, ImageSpec,
    MountRequest, Progress, Result,
};
use imagevol_mount::{Attributes, Backend, DetachedMount, Interface};
use imagevol_registry::{Platform, Registry};
use imagevol_store::{ImageRecord, ImageSummary, Store};
use tokio::sync::{Semaphore, mpsc};

use crate::config::{Config, ConfigKey};
use crate::downloads::Downloads;
use crate::fetch::{FetchError, FetchKey, Fetched};
use crate::integrity::Integrity;
use crate::per_key::PerKey;
use crate::pull::Asked;
use crate::pulls::{Pulls, RunningPull};
use crate::right::{Proven, Right};
use crate::staging::Staging;
use crate::stores::{AdditionalImageStore, Stores, TakeKey};
use imagevol_api::text::chain;

/// How many blobs are fetched at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Concurrency {
    /// Of one pull.
    pub blobs_per_pull: usize,
    /// On the node.
    pub blobs_per_node: usize,
    /// How long a download goes on that nobody wants any more: a pod that is replaced wants the same bytes at once.
    pub abandoned_grace: Duration,
}

/// What an image may be at most, as far as its manifest tells. What it unpacks to is the store's to limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one blob in the registry.
    pub max_blob_bytes: u64,
    /// Bytes of all layers, in the registry and unpacked.
    pub max_image_bytes: u64,
    /// Images that were first seen more recently are not removed to make room for another (`imageMinimumGCAge`).
    pub min_gc_age: Duration,
}

/// Where a holder's volume is mounted, if it has one. What is mounted there is the image that the holder's row is bound to, or nothing.
pub type SurvivorOf = Arc<dyn Fn(&Holder) -> Option<PathBuf> + Send + Sync>;

/// What the service is built from.
pub struct Parts {
    /// Content and rows.
    pub store: Store,
    /// Where content comes from.
    pub registry: Arc<Registry>,
    /// System calls for mounts.
    pub mounts: Arc<dyn Interface>,
    /// How images are mounted.
    pub backend: Backend,
    /// Where images are staged.
    pub staging_dir: PathBuf,
    /// Where volumes are mounted: an image whose staging mount is gone is cloned from one of them.
    pub survivor_of: SurvivorOf,
    /// Which image of an index fits.
    pub platform: Platform,
    /// Limits of downloads.
    pub concurrency: Concurrency,
    /// Limits of images.
    pub limits: Limits,
    /// Owner of downloads.
    pub supervisor: Supervisor,
}

/// Pulls into the store, and mounts from it. Clones are the same service.
#[derive(Clone)]
pub struct EmbeddedImageService {
    pub(crate) store: Store,
    pub(crate) registry: Arc<Registry>,
    pub(crate) platform: Platform,
    pub(crate) concurrency: Concurrency,
    pub(crate) limits: Limits,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) blobs: Arc<SingleFlight<FetchKey, Result<Fetched, FetchError>>>,
    pub(crate) configs: Arc<SingleFlight<ConfigKey, Result<Config, FetchError>>>,
    pub(crate) downloads: Arc<Downloads>,
    /// What pulls under way have shown that they may have.
    pub(crate) proofs: Arc<PerKey<Right, Proven>>,
    /// Had by whoever removes images that nobody needs.
    pub(crate) turns: Turns,
    /// Who hears of images that were removed to make room for another.
    pub(crate) made_room: Option<mpsc::UnboundedSender<Collection>>,
    /// Owner of what goes on when its caller has gone away.
    pub(crate) supervisor: Supervisor,
    /// Taken while an image is committed: it is built once, whoever pulls it.
    pub(crate) commits: Arc<PerKey<Digest, tokio::sync::Mutex<()>>>,
    pub(crate) pulls: Pulls,
    /// Layouts that are looked at before the network.
    pub(crate) stores: Arc<Stores>,
    /// Images on their way from there.
    pub(crate) taken: Arc<SingleFlight<TakeKey, Result<Option<ImageRecord>>>>,
    pub(crate) staging: Arc<Staging>,
}

// === impl Concurrency ===

impl Default for Concurrency {
    /// containerd's default of 3 for one pull; 8 keep a fast link busy and a slow disk alive.
    fn default() -> Self {
        Self { blobs_per_pull: 3, blobs_per_node: 8, abandoned_grace: Duration::from_secs(30) }
    }
}

// === impl Limits ===

impl Default for Limits {
    /// 1 TiB a blob, 4 TiB an image; the kubelet's two minutes (`imageMinimumGCAge`).
    fn default() -> Self {
        Self { max_blob_bytes: 1 << 40, max_image_bytes: 4 << 40, min_gc_age: Duration::from_mins(2) }
    }
}

// === impl EmbeddedImageService ===

impl EmbeddedImageService {
    /// Builds the service. It removes no image that nobody seems to need before its turns are opened.
    pub fn new(parts: Parts) -> Self {
        let staging = Staging {
            store: parts.store.clone(),
            mounts: parts.mounts,
            backend: parts.backend,
            dir: parts.staging_dir,
            survivor_of: parts.survivor_of,
            integrity: Integrity::default(),
            staged: Mutex::default(),
        };
        Self {
            store: parts.store,
            registry: parts.registry,
            platform: parts.platform,
            concurrency: parts.concurrency,
            limits: parts.limits,
            permits: Arc::new(Semaphore::new(parts.concurrency.blobs_per_node.max(1))),
            blobs: Arc::new(SingleFlight::new(parts.supervisor.clone(), parts.concurrency.abandoned_grace)),
            configs: Arc::new(SingleFlight::new(parts.supervisor.clone(), parts.concurrency.abandoned_grace)),
            taken: Arc::new(SingleFlight::new(parts.supervisor.clone(), parts.concurrency.abandoned_grace)),
            stores: Arc::default(),
            downloads: Arc::default(),
            proofs: Arc::default(),
            turns: Turns::closed(),
            made_room: None,
            supervisor: parts.supervisor,
            commits: Arc::default(),
            pulls: Pulls::default(),
            staging: Arc::new(staging),
        }
    }

    /// The same service, which looks for images in these directories before it asks the network.
    #[must_use]
    pub fn with_additional_stores(mut self, stores: Vec<AdditionalImageStore>) -> Self {
        self.stores = Arc::new(Stores::new(stores, self.registry.limits()));
        self
    }

    /// The same service, which tells of each collection that made room for an image.
    #[must_use]
    pub fn telling_of_room(mut self, to: mpsc::UnboundedSender<Collection>) -> Self {
        self.made_room = Some(to);
        self
    }

    /// Content and rows, to list and to check.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The pulls under way.
    pub fn running_pulls(&self) -> Vec<RunningPull> {
        self.pulls.list()
    }

    /// Unmounts staged images that nobody holds: what a kill, or a pod that went while the daemon was down, has left.
    pub async fn unstage_unused(&self) -> Result<()> {
        let staging = Arc::clone(&self.staging);
        self.blocking_mount(move || staging.unstage_unused()).await
    }

    /// The image that a name leads to: a tag, a digest of its repository, or its own digest.
    pub async fn find_image(&self, name: &str) -> Result<Option<ImageRecord>> {
        let name = name.to_owned();
        self.blocking(move |store| store.resolve(&name)).await
    }

    /// Removes a name or an image; says what went.
    pub async fn remove_image(&self, name: &str) -> Result<imagevol_store::Removed> {
        if let Some(image) = self.find_image(name).await? {
            let staging = Arc::clone(&self.staging);
            // What is mounted is not removed.
            self.blocking_mount(move || staging.unstage_if_unused(&image.manifest)).await?;
        }
        let name = name.to_owned();
        self.blocking(move |store| store.remove(&name)).await
    }

    pub(crate) async fn blocking_mount<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        tokio::task::spawn_blocking(call).await.map_err(|error| crate::error::of_task(&error))?
    }

    /// The platform that is asked for, if it is another than this service's own.
    pub(crate) fn other_platform(&self, image: &ImageSpec) -> Option<Platform> {
        image.platform.as_ref().map(Platform::from).filter(|platform| *platform != self.platform)
    }

    async fn as_image(&self, record: ImageRecord) -> Result<Image> {
        let digest = record.manifest.clone();
        let (names, pins) = self.blocking(move |store| Ok((store.names_of(&digest)?, store.pins_of(&digest)?))).await?;
        Ok(to_image((record.manifest, record.size), names, &pins))
    }
}

impl std::fmt::Debug for EmbeddedImageService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedImageService").field("store", &self.store.state_dir()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("staging_dir", &self.staging_dir).finish_non_exhaustive()
    }
}

#[async_trait]
impl ImageService for EmbeddedImageService {
    async fn list(&self) -> Result<Vec<Image>> {
        let images = self.blocking(Store::image_summaries).await?;
        let image = |image: ImageSummary| to_image((image.manifest, image.size), image.names, &image.pins);
        Ok(images.into_iter().map(image).collect())
    }

    async fn status(&self, image: &ImageSpec) -> Result<Option<Image>> {
        let found = match self.other_platform(image) {
            None => self.find_image(&image.image).await?,
            Some(platform) => {
                let (name, platform) = (image.image.clone(), platform.to_string());
                self.blocking(move |store| store.resolve_on(&name, &platform)).await?
            }
        };
        let found = match found {
            Some(record) => Some(record),
            None => self.take_by_name(image).await?,
        };
        match found {
            Some(record) => self.as_image(record).await.map(Some),
            None => Ok(None),
        }
    }

    async fn pull(
        &self,
        image: &ImageSpec,
        credential: &Credential,
        holder: &Holder,
        progress: &Progress,
    ) -> Result<ImageId> {
        let reference = Reference::parse(&image.image)
            .map_err(|error| ImageServiceError::Invalid { message: error.to_string() })?;
        let (reference, platform) = (reference.with_default_tag(), self.other_platform(image));
        let asked = Asked { reference: &reference, platform: platform.as_ref(), credential };
        let record = self.pull_image(asked, holder, progress).await?;
        Ok(ImageId::new(record.manifest))
    }

    async fn remove(&self, image: &ImageSpec) -> Result<()> {
        match self.remove_image(&image.image).await {
            Err(ImageServiceError::NotFound { .. }) => Ok(()),
            other => other.map(drop),
        }
    }

    async fn fs_info(&self) -> Result<FilesystemUsage> {
        self.blocking_mount({
            let store = self.store.clone();
            move || {
                let node = |error: &dyn std::error::Error| ImageServiceError::Node { message: chain(error) };
                let stats = imagevol_mount::filesystem(store.state_dir()).map_err(|error| node(&error))?;
                let (used_bytes, inodes_used) = store.usage().map_err(|error| node(&error))?;
                Ok(FilesystemUsage {
                    used_bytes,
                    inodes_used,
                    capacity_bytes: stats.capacity,
                    available_bytes: stats.available,
                })
            }
        })
        .await
    }
}

#[async_trait]
impl ImageReferences for EmbeddedImageService {
    async fn hold(&self, holder: &Holder, reference: &str) -> Result<()> {
        let (holder, reference) = (holder.clone(), normalized(reference));
        self.blocking(move |store| store.hold(&holder, &reference)).await
    }

    async fn bind(&self, holder: &Holder, image: &ImageId) -> Result<Option<ImageId>> {
        let (holder, digest) = (holder.clone(), image.digest().clone());
        let bound = self.blocking(move |store| store.bind(&holder, &digest)).await?;
        Ok(bound.then(|| image.clone()))
    }

    async fn release(&self, holder: &Holder) -> Result<()> {
        let key = holder.clone();
        let image = self.blocking(move |store| store.release(&key)).await?;
        let staging = Arc::clone(&self.staging);
        self.blocking_mount(move || match image {
            Some(image) => staging.unstage_if_unused(&image),
            // An earlier try may have removed the row and failed to unmount: of what, nobody knows any more.
            None => staging.unstage_unused(),
        })
        .await
    }

    async fn holders(&self) -> Result<Vec<(Holder, String, Option<ImageId>)>> {
        let rows = self.blocking(Store::references).await?;
        Ok(rows.into_iter().map(|(holder, row)| (holder, row.reference, row.image.map(ImageId::new))).collect())
    }
}

#[async_trait]
impl ImageMounts for EmbeddedImageService {
    async fn mount(&self, request: MountRequest<'_>) -> Result<DetachedMount> {
        let staging = Arc::clone(&self.staging);
        let (image, sub_path) = (request.image.digest().clone(), request.sub_path.cloned());
        let attributes = Attributes { exec: request.exec };
        self.blocking_mount(move || staging.mount(&image, sub_path.as_ref(), attributes)).await
    }
}

/// What a row says that somebody wants; what is no reference stays as it is, and leads to nothing.
pub(crate) fn normalized(reference: &str) -> String {
    Reference::parse(reference).map_or_else(|_| reference.to_owned(), |parsed| parsed.with_default_tag().to_string())
}

fn to_image((manifest, size): (Digest, u64), names: Vec<String>, pins: &[ImagePattern]) -> Image {
    let (repo_digests, repo_tags) = names.into_iter().partition(|name| name.contains('@'));
    Image { id: ImageId::new(manifest), repo_tags, repo_digests, size, pinned: !pins.is_empty() }
}
