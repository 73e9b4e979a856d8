//! A pull: prove the right to the manifest, make each blob present once for the whole node, commit the image at once.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use imagevol_api::auth::Credential;
use imagevol_api::oci::{Digest, Reference};
use imagevol_cri::progress::Blob;
use imagevol_cri::{Holder, ImageServiceError, Progress, Result};
use imagevol_registry::{Manifest, ManifestKind, Platform, Resolved};
use imagevol_store::{ContentKey, Form, ImageKind, ImageName, ImageRecord, LayerRecord, Store, Stored};

use crate::EmbeddedImageService;
use crate::config::Config;
use crate::error::{of_plan, of_registry, of_store};
use crate::fetch::{self, Fetch, FetchError, FetchKey};
use crate::plan::{LayerPlan, plan};
use crate::service::Limits;

/// Keeps an image's manifest and config until its row names them.
struct Metadata {
    _manifest: Stored,
    _config: Option<Arc<Stored>>,
}

/// Content of an image that is present and leased, beside what was planned.
pub(crate) struct Layer {
    pub(crate) plan: LayerPlan,
    pub(crate) stored: Arc<Stored>,
}

/// What a registry is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) reference: &'a Reference,
    /// If it is another than the service's own.
    pub(crate) platform: Option<&'a Platform>,
    pub(crate) credential: &'a Credential,
}

/// What binds a holder to an image.
#[derive(Clone)]
pub(crate) struct Wanted {
    pub(crate) names: Vec<ImageName>,
    pub(crate) holder: Holder,
}

impl EmbeddedImageService {
    /// The registry is asked with this credential, whatever is here: that is the proof of the right to the image.
    pub(crate) async fn pull_image(
        &self,
        asked: Asked<'_>,
        holder: &Holder,
        progress: &Progress,
    ) -> Result<ImageRecord> {
        let Asked { reference, platform, credential } = asked;
        let _shown = self.pulls.show(reference.to_string(), progress.clone());
        let resolved = self.registry.resolve(reference, platform.unwrap_or(&self.platform), credential).await;
        let resolved = Arc::new(resolved.map_err(|error| of_registry(&error))?);
        check_sizes(&resolved.manifest, self.limits)?;
        let digests = (&resolved.root_digest, &resolved.manifest_digest);
        let wanted = Wanted { names: names(reference, digests, platform), holder: holder.clone() };
        if let Some(image) = self.commit_present(&resolved.manifest_digest, &wanted).await? {
            return Ok(image);
        }
        let (metadata, config) = self.fetch_metadata(&resolved, credential).await?;
        let plans = plan(&resolved.manifest, &config).map_err(|error| of_plan(&error))?;
        let layers = self.fetch_layers(&resolved, credential, plans, progress).await?;
        let image = self.commit(record(&resolved.manifest_digest, &resolved.manifest, &layers), wanted).await;
        // The leases keep the content until the image's row names it.
        drop((metadata, layers));
        image
    }

    /// The image, if nothing of it has to be fetched.
    pub(crate) async fn commit_present(&self, manifest: &Digest, wanted: &Wanted) -> Result<Option<ImageRecord>> {
        let (manifest, Wanted { names, holder }) = (manifest.clone(), wanted.clone());
        self.blocking(move |store| store.commit_present(&manifest, &names, &holder)).await
    }

    /// An image is built by the first of those that pull it at once; the others find it.
    pub(crate) async fn commit(&self, record: ImageRecord, wanted: Wanted) -> Result<ImageRecord> {
        let turn = self.commits.get_or_make(record.manifest.clone(), tokio::sync::Mutex::default);
        let turn = turn.lock_owned().await;
        let commit = move |store: &Store| {
            // Held by the work itself, which goes on if its caller goes away.
            let _turn = turn;
            store.commit_image(record, &wanted.names, &wanted.holder)
        };
        self.blocking(commit).await
    }

    /// The manifest, and of an image its config: small, kept as blobs.
    ///
    /// An artifact's config is nobody's business here: it may be as large as its maker likes, and sloppy registries lack the empty one.
    async fn fetch_metadata(&self, resolved: &Arc<Resolved>, credential: &Credential) -> Result<(Metadata, Bytes)> {
        let (digest, bytes) = (resolved.manifest_digest.clone(), resolved.manifest_bytes.clone());
        let manifest = self.blocking(move |store| store.put_blob(&digest, &bytes)).await?;
        let Config { stored, bytes } = match resolved.manifest.kind() {
            ManifestKind::Image => self.fetch_config_once(resolved, credential).await?,
            ManifestKind::Artifact => Config::default(),
        };
        Ok((Metadata { _manifest: manifest, _config: stored }, bytes))
    }

    /// Some blobs of one pull at once; the node's limit is held by each fetch. Whoever waits for it is served in the order in which he came,
    /// so that a pull of many layers is never more than its few ahead of another.
    async fn fetch_layers(
        &self,
        resolved: &Arc<Resolved>,
        credential: &Credential,
        plans: Vec<LayerPlan>,
        progress: &Progress,
    ) -> Result<Vec<Layer>> {
        let fetches: Vec<Fetch> = plans.into_iter().map(|layer| self.fetch(resolved, credential, layer)).collect();
        for fetch in &fetches {
            progress.show(&fetch.progress);
        }
        let fetches = fetches.into_iter().map(|fetch| async move {
            let stored = self.fetch_once(&fetch).await?;
            Ok(Layer { plan: fetch.layer, stored })
        });
        stream::iter(fetches).buffered(self.concurrency.blobs_per_pull.max(1)).try_collect().await
    }

    fn fetch(&self, resolved: &Resolved, credential: &Credential, layer: LayerPlan) -> Fetch {
        let (digest, size) = (&layer.descriptor.digest, layer.descriptor.size);
        Fetch {
            registry: Arc::clone(&self.registry),
            store: self.store.clone(),
            reference: resolved.reference.clone(),
            credential: credential.clone(),
            progress: self.counters.get_or_make(FetchKey::of(&layer), || Blob::new(digest, size)),
            layer,
        }
    }

    async fn fetch_once(&self, fetch: &Fetch) -> Result<Arc<Stored>> {
        let (key, start) = (FetchKey::of(&fetch.layer), || self.clone().make_present(fetch.clone()));
        let stored = fetch::join(&self.blobs, &key, &fetch.reference, start).await?;
        fetch.progress.finish();
        Ok(stored)
    }

    async fn make_present(self, fetch: Fetch) -> Result<Arc<Stored>, FetchError> {
        if let Some(stored) = self.find(&fetch.layer).await.map_err(|error| fetch.error(error))? {
            return Ok(Arc::new(stored));
        }
        let permit = self.permits.acquire().await;
        let _permit = permit.map_err(|_| fetch.error(ImageServiceError::Cancelled))?;
        if let Some(stored) = self.take_from_stores(&fetch.layer, &fetch.progress).await {
            return Ok(stored);
        }
        fetch.run().await
    }

    pub(crate) async fn find(&self, layer: &LayerPlan) -> Result<Option<Stored>> {
        let layer = layer.clone();
        self.blocking(move |store| fetch::find(store, &layer)).await
    }

    /// Runs a call of the store on a blocking thread.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Store) -> imagevol_store::Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = self.store.clone();
        let result = tokio::task::spawn_blocking(move || call(&store)).await;
        result.map_err(|error| crate::error::of_task(&error))?.map_err(|error| of_store(&error))
    }
}

/// Before a byte of a layer is fetched.
pub(crate) fn check_sizes(manifest: &Manifest, limits: Limits) -> Result<()> {
    let too_large = |what: &str, size: u64, limit: u64| {
        Err(ImageServiceError::Invalid {
            message: format!("{what} is {size} bytes long, and at most {limit} are allowed"),
        })
    };
    if let Some(layer) = manifest.layers.iter().find(|layer| layer.size > limits.max_blob_bytes) {
        return too_large(&format!("layer {}", layer.digest), layer.size, limits.max_blob_bytes);
    }
    let total = manifest.layers.iter().fold(0_u64, |total, layer| total.saturating_add(layer.size));
    if total > limits.max_image_bytes { too_large("image", total, limits.max_image_bytes) } else { Ok(()) }
}

/// What will lead to the image: the tag that was asked for, and the digests that it stood for, of the root and of the manifest. Tag and
/// index stand for an image on each platform, the manifest's digest for one alone.
pub(crate) fn names(
    reference: &Reference,
    (root, manifest): (&Digest, &Digest),
    platform: Option<&Platform>,
) -> Vec<ImageName> {
    let name = |reference: &Reference| match platform {
        Some(platform) => ImageName::on(reference, &platform.to_string()),
        None => ImageName::new(reference),
    };
    // With a digest, the digest decides and the tag was not asked.
    let tag = reference.digest().is_none().then(|| name(reference));
    let own = ImageName::new(&reference.at_digest(manifest));
    let index = (root != manifest).then(|| name(&reference.at_digest(root)));
    tag.into_iter().chain([own]).chain(index).collect()
}

pub(crate) fn record(digest: &Digest, manifest: &Manifest, layers: &[Layer]) -> ImageRecord {
    let kind = match manifest.kind() {
        ManifestKind::Image => ImageKind::Image,
        ManifestKind::Artifact => ImageKind::Artifact,
    };
    let config_type = (kind == ImageKind::Artifact).then(|| manifest.config.media_type.clone());
    ImageRecord {
        manifest: digest.clone(),
        media_type: manifest.media_type.clone(),
        kind,
        artifact_type: manifest.artifact_type.clone().or(config_type),
        config: manifest.config.digest.clone(),
        layers: layers.iter().map(layer_record).collect(),
        annotations: manifest.annotations.clone(),
        size: 0,
        index_bytes: 0,
        index_digest: None,
        pulled_at: 0,
    }
}

fn layer_record(layer: &Layer) -> LayerRecord {
    let content: ContentKey = layer.stored.lease.key().clone();
    debug_assert_eq!(matches!(layer.plan.form, Form::Blob), matches!(content, ContentKey::Blob(_)));
    LayerRecord {
        digest: layer.plan.descriptor.digest.clone(),
        media_type: layer.plan.descriptor.media_type.clone(),
        size: layer.plan.descriptor.size,
        stored_size: layer.stored.content.size,
        content,
        title: layer.plan.title.clone(),
    }
}
