//! A pull: prove the right to the manifest, make each blob present once for the whole node, commit the image at once.

use std::sync::Arc;

use bytes::Bytes;
use imagevol_api::auth::Credential;
use imagevol_api::oci::{Digest, Reference};
use imagevol_base::size::binary;
use imagevol_cri::{Holder, ImageServiceError, Progress, Result};
use imagevol_registry::{Manifest, ManifestKind, Platform, Resolved};
use imagevol_store::{ContentKey, Form, ImageKind, ImageName, ImageRecord, LayerRecord, Store, Stored};

use crate::EmbeddedImageService;
use crate::config::Config;
use crate::error::{of_image, of_plan, of_registry, of_store};
use crate::layers::Layer;
use crate::plan::plan;
use crate::right::{Proofs, Right};
use crate::service::Limits;

/// Keeps an image's manifest and config until its row names them.
struct Metadata {
    _manifest: Stored,
    _config: Option<Arc<Stored>>,
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
        check_sizes(&resolved.manifest, self.limits).map_err(|error| of_image(reference, error))?;
        let digests = (&resolved.root_digest, &resolved.manifest_digest);
        let wanted = Wanted { names: names(reference, digests, platform), holder: holder.clone() };
        if let Some(image) = self.commit_known(&resolved, &wanted).await? {
            return Ok(image);
        }
        let right = Right { reference: resolved.reference.clone(), credential: credential.clone() };
        let image = self.bring(&resolved, right, wanted, progress).await;
        image.map_err(|error| self.failed(reference, (&resolved.manifest_digest, &resolved.manifest), error))
    }

    /// Ends a pull or an import that did not bring its image, and says whose error it is.
    pub(crate) fn failed(
        &self,
        reference: &Reference,
        (digest, manifest): (&Digest, &Manifest),
        error: ImageServiceError,
    ) -> ImageServiceError {
        if matches!(error, ImageServiceError::NoRoom { .. }) {
            self.leave_nothing(digest, manifest);
        }
        of_image(reference, error)
    }

    /// What the manifest names, and then the image.
    async fn bring(
        &self,
        resolved: &Arc<Resolved>,
        right: Right,
        wanted: Wanted,
        progress: &Progress,
    ) -> Result<ImageRecord> {
        let proofs = Proofs::new(right, &self.proofs);
        let (metadata, config) = self.fetch_metadata(resolved, &proofs).await?;
        let plans = plan(&resolved.manifest, &config).map_err(|error| of_plan(&error))?;
        let layers = self.fetch_layers(&proofs, plans, progress).await?;
        let image = self.commit(record(&resolved.manifest_digest, &resolved.manifest, &layers), wanted).await;
        // The leases keep the content until the image's row names it.
        drop((metadata, layers));
        image
    }

    /// For an image that found no room: those of its layers that did fit would else be kept for a day, so that its next pull can go on
    /// with them, on a disk that needs the room. Others of its layers may be under way still; they end soon, as nobody waits for them.
    /// A refusal before it is known what may be removed is not the last word: that image keeps what it has.
    ///
    /// Killed or stopped before it is done: they are kept for the day.
    fn leave_nothing(&self, digest: &Digest, manifest: &Manifest) {
        if !self.turns.is_open() {
            return;
        }
        let layers = manifest.layers.iter().map(|layer| layer.digest.clone());
        let blobs: Vec<Digest> = layers.chain([digest.clone(), manifest.config.digest.clone()]).collect();
        let (service, stopped) = (self.clone(), self.supervisor.token());
        self.supervisor.spawn("leave nothing", async move {
            tokio::select! {
                biased;
                // Flights end with the process too; what is whole then is gone on with.
                () = stopped.cancelled() => return,
                () = service.blobs.ended(|key| blobs.contains(key.digest())) => {}
            }
            match service.blocking(move |store| store.drop_unfinished(&blobs)).await {
                Ok(removed) if removed.freed_bytes > 0 => {
                    tracing::info!(bytes = removed.freed_bytes, "what is whole of an image that found no room is gone");
                }
                Ok(_) => {}
                Err(error) => tracing::error!(%error, "what is whole of an image that found no room stays"),
            }
        });
    }

    /// The image, if nothing of it has to be fetched, and if it is known from this repository, whose manifest the registry has just
    /// given: who may read the manifests of a repository may read its blobs. From another repository each layer must be proven, for
    /// who has pushed a manifest need not have had what it names.
    async fn commit_known(&self, resolved: &Resolved, wanted: &Wanted) -> Result<Option<ImageRecord>> {
        let (manifest, repository) = (resolved.manifest_digest.clone(), resolved.reference.clone());
        if !self.blocking(move |store| store.is_named_in(&manifest, &repository)).await? {
            return Ok(None);
        }
        self.commit_present(&resolved.manifest_digest, wanted).await
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
    async fn fetch_metadata(&self, resolved: &Arc<Resolved>, proofs: &Proofs) -> Result<(Metadata, Bytes)> {
        let (digest, bytes) = (resolved.manifest_digest.clone(), resolved.manifest_bytes.clone());
        let manifest = self.blocking(move |store| store.put_blob(&digest, &bytes)).await?;
        let Config { stored, bytes } = match resolved.manifest.kind() {
            ManifestKind::Image => self.fetch_config_once(resolved, proofs).await?,
            ManifestKind::Artifact => Config::default(),
        };
        Ok((Metadata { _manifest: manifest, _config: stored }, bytes))
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
            message: format!("{what} is {} large, and at most {} are allowed", binary(size), binary(limit)),
        })
    };
    if let Some(layer) = manifest.layers.iter().find(|layer| layer.size > limits.max_blob_bytes) {
        return too_large(&format!("layer {}", layer.digest), layer.size, limits.max_blob_bytes);
    }
    let total = manifest.layers.iter().fold(0_u64, |total, layer| total.saturating_add(layer.size));
    if total > limits.max_image_bytes { too_large("it", total, limits.max_image_bytes) } else { Ok(()) }
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
