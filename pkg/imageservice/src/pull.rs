//! A pull: prove the right to the manifest, make each blob present once for the whole node, commit the image at once.

use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use imagevol_api::auth::Credential;
use imagevol_api::oci::Reference;
use imagevol_cri::progress::Blob;
use imagevol_cri::{Holder, ImageServiceError, Progress, Result};
use imagevol_registry::{Manifest, ManifestKind, Resolved};
use imagevol_store::{ContentKey, Form, ImageKind, ImageRecord, LayerRecord, Stored};

use crate::EmbeddedImageService;
use crate::error::{of_plan, of_registry, of_store};
use crate::fetch::{self, Fetch};
use crate::plan::{LayerPlan, plan};
use crate::service::Limits;

/// Largest config: 8 MiB, which is what containerd takes (core/images, config of an image).
const MAX_CONFIG_BYTES: u64 = 8 << 20;

/// Content of an image that is present and leased, beside what was planned.
struct Layer {
    plan: LayerPlan,
    stored: Arc<Stored>,
}

/// What one flight of a blob leaves: shared by all that wait for it.
pub(crate) type Fetched = Result<Arc<Stored>>;

impl EmbeddedImageService {
    /// The registry is asked with this credential, whatever is here: that is the proof of the right to the image.
    pub(crate) async fn pull_image(
        &self,
        reference: &Reference,
        credential: &Credential,
        holder: &Holder,
        progress: &Progress,
    ) -> Result<ImageRecord> {
        let _shown = self.pulls.show(reference.to_string(), progress.clone());
        let resolved = self.registry.resolve(reference, &self.platform, credential).await;
        let resolved = Arc::new(resolved.map_err(|error| of_registry(&error))?);
        let names = names(reference, &resolved);
        check_sizes(&resolved.manifest, self.limits)?;
        if let Some(known) = self.known(&resolved).await? {
            return self.commit(known, names, holder).await;
        }
        let (manifest, config) = self.fetch_metadata(&resolved, credential).await?;
        let plans = plan(&resolved.manifest, &config).map_err(|error| of_plan(&error))?;
        let layers = self.fetch_layers(&resolved, credential, plans, progress).await?;
        let record = record(&resolved, &layers);
        let image = self.commit(record, names, holder).await;
        // The leases keep the content until the image's row names it.
        drop((manifest, layers));
        image
    }

    async fn known(&self, resolved: &Resolved) -> Result<Option<ImageRecord>> {
        let digest = resolved.manifest_digest.to_string();
        self.blocking(move |store| store.resolve(&digest)).await
    }

    async fn commit(&self, record: ImageRecord, names: Vec<Reference>, holder: &Holder) -> Result<ImageRecord> {
        let holder = holder.clone();
        self.blocking(move |store| store.commit_image(record, &names, &holder)).await
    }

    /// Manifest and config: small, kept as blobs.
    async fn fetch_metadata(&self, resolved: &Resolved, credential: &Credential) -> Result<(Vec<Stored>, Vec<u8>)> {
        let config = &resolved.manifest.config;
        let config = self.registry.fetch_small(&resolved.reference, config, MAX_CONFIG_BYTES, credential).await;
        let config = config.map_err(|error| of_registry(&error))?.to_vec();
        let blobs = [
            (resolved.manifest_digest.clone(), resolved.manifest_bytes.to_vec()),
            (resolved.manifest.config.digest.clone(), config.clone()),
        ];
        let put = move |store: &imagevol_store::Store| {
            blobs.iter().map(|(digest, bytes)| store.put_blob(digest, bytes)).collect()
        };
        Ok((self.blocking(put).await?, config))
    }

    /// Some blobs of one pull at once; the node's limit is held by each fetch.
    async fn fetch_layers(
        &self,
        resolved: &Arc<Resolved>,
        credential: &Credential,
        plans: Vec<LayerPlan>,
        progress: &Progress,
    ) -> Result<Vec<Layer>> {
        let counters: Vec<Blob> =
            plans.iter().map(|plan| progress.blob(&plan.descriptor.digest, plan.descriptor.size)).collect();
        let fetches = plans.into_iter().zip(counters).map(|(layer, progress)| {
            let fetch = Fetch {
                registry: Arc::clone(&self.registry),
                store: self.store.clone(),
                reference: resolved.reference.clone(),
                credential: credential.clone(),
                layer,
                progress,
            };
            async move {
                let plan = fetch.layer.clone();
                Ok(Layer { stored: self.fetch_once(fetch).await?, plan })
            }
        });
        stream::iter(fetches).buffered(self.concurrency.blobs_per_pull).try_collect().await
    }

    /// Joins whoever fetches the same blob. If that fails with the other's credential, this one's is tried.
    async fn fetch_once(&self, fetch: Fetch) -> Result<Arc<Stored>> {
        if let Some(stored) = self.find(&fetch.layer).await? {
            fetch.progress.finish();
            return Ok(Arc::new(stored));
        }
        let progress = fetch.progress.clone();
        let joined = self.blobs.is_running(&fetch.layer.descriptor.digest);
        match self.fly(fetch.clone()).await {
            Err(_) if joined => self.fly(fetch).await,
            result => result,
        }
        .inspect(|_| progress.finish())
    }

    async fn fly(&self, fetch: Fetch) -> Result<Arc<Stored>> {
        let (service, key) = (self.clone(), fetch.layer.descriptor.digest.clone());
        let flight = move || async move {
            // Present by now, if another flight has just landed.
            if let Some(stored) = service.find(&fetch.layer).await? {
                return Ok(Arc::new(stored));
            }
            let _permit = service.permits.acquire().await.map_err(|_| ImageServiceError::Cancelled)?;
            fetch.run().await
        };
        self.blobs.run(key, flight).await.unwrap_or(Err(ImageServiceError::Cancelled))
    }

    async fn find(&self, layer: &LayerPlan) -> Result<Option<Stored>> {
        let layer = layer.clone();
        self.blocking(move |store| fetch::find(store, &layer)).await
    }

    /// Runs a call of the store on a blocking thread.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&imagevol_store::Store) -> imagevol_store::Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = self.store.clone();
        let result = tokio::task::spawn_blocking(move || call(&store)).await;
        result.map_err(|error| crate::error::of_task(&error))?.map_err(|error| of_store(&error))
    }
}

/// Before a byte of a layer is fetched.
fn check_sizes(manifest: &Manifest, limits: Limits) -> Result<()> {
    let too_large = |what: &str, size: u64, limit: u64| {
        Err(ImageServiceError::Invalid {
            message: format!("{what} is {size} bytes long, and at most {limit} are allowed"),
        })
    };
    for layer in manifest.layers.iter().filter(|layer| layer.size > limits.max_blob_bytes) {
        return too_large(&format!("layer {}", layer.digest), layer.size, limits.max_blob_bytes);
    }
    let total = manifest.layers.iter().fold(0_u64, |total, layer| total.saturating_add(layer.size));
    if total > limits.max_image_bytes { too_large("image", total, limits.max_image_bytes) } else { Ok(()) }
}

/// What will lead to the image: the tag that was asked for, and the digests that it stood for.
fn names(reference: &Reference, resolved: &Resolved) -> Vec<Reference> {
    let mut names = vec![reference.at_digest(&resolved.manifest_digest), reference.at_digest(&resolved.root_digest)];
    // With a digest, the digest decides and the tag was not asked.
    if reference.digest().is_none() {
        names.insert(0, reference.clone());
    }
    names.dedup();
    names
}

fn record(resolved: &Resolved, layers: &[Layer]) -> ImageRecord {
    let manifest = &resolved.manifest;
    let kind = match manifest.kind() {
        ManifestKind::Image => ImageKind::Image,
        ManifestKind::Artifact => ImageKind::Artifact,
    };
    let config_type = (kind == ImageKind::Artifact).then(|| manifest.config.media_type.clone());
    ImageRecord {
        manifest: resolved.manifest_digest.clone(),
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
