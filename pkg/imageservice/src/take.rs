//! An image from a layout, by the same steps as from a registry: each layer is verified as it is stored, the image is committed at once.

use std::io::{self, Read as _};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use imagevol_api::auth::Credential;
use imagevol_api::oci::{Digest, Reference};
use imagevol_cri::progress::Blob as Counter;
use imagevol_cri::{ImageServiceError, Progress, Result};
use imagevol_layout::{Blob, Found, Layout, LayoutError};
use imagevol_registry::ManifestKind;
use imagevol_store::{ImageRecord, Ingest, Store, StoreError, Stored};

use crate::EmbeddedImageService;
use crate::chunks::{Sender, channel};
use crate::config::{self, Config, MAX_CONFIG_BYTES};
use crate::error::{content_of, of_image, of_layout, of_plan, of_store};
use crate::fetch::{self, Fetch, FetchKey};
use crate::layers::Layer;
use crate::plan::{LayerPlan, plan};
use crate::pull::{Wanted, check_sizes, record};
use crate::right::Right;

/// Bytes that are read at once.
const CHUNK: u64 = 256 * 1024;
/// How long the next bytes may take: a server on the network that is slow, or that comes back, has sent some by then (nfs(5): requests
/// are sent again after a minute).
const STALL: Duration = Duration::from_mins(1);

/// Why a layer was not taken.
enum Failure {
    Layout(LayoutError),
    Store(StoreError),
    /// The directory does not answer.
    Silent,
}

/// A layer that is here, or can be copied.
enum Begun {
    Here(Stored),
    Ingest(Ingest, Blob),
}

impl EmbeddedImageService {
    /// Brings an image of a layout into the node's store.
    pub(crate) async fn take_image(
        &self,
        layout: &Arc<Layout>,
        found: Found,
        (wanted, reference): (Wanted, &Reference),
        progress: &Progress,
    ) -> Result<ImageRecord> {
        check_sizes(&found.manifest, self.limits).map_err(|error| of_image(reference, error))?;
        if let Some(image) = self.commit_present(&found.manifest_digest, &wanted).await? {
            return Ok(image);
        }
        let image = self.take(layout, &found, (wanted, reference), progress).await;
        image.map_err(|error| self.failed(reference, (&found.manifest_digest, &found.manifest), error))
    }

    async fn take(
        &self,
        layout: &Arc<Layout>,
        found: &Found,
        (wanted, reference): (Wanted, &Reference),
        progress: &Progress,
    ) -> Result<ImageRecord> {
        let (digest, bytes) = (found.manifest_digest.clone(), found.manifest_bytes.clone());
        let manifest = self.blocking(move |store| store.put_blob(&digest, &bytes)).await?;
        let config = match found.manifest.kind() {
            ManifestKind::Image => self.take_config(layout, found).await?,
            ManifestKind::Artifact => Config::default(),
        };
        let plans = plan(&found.manifest, &config.bytes).map_err(|error| of_plan(&error))?;
        // Nothing is fetched: there is no right to be shown, only room to be made.
        let right = Right { reference: reference.clone(), credential: Credential::Anonymous };
        let fetches: Vec<Fetch> = plans.into_iter().map(|layer| self.local(&right, layer)).collect();
        self.make_room(reference, &self.missing(&fetches).await?).await?;
        let layers = self.take_layers(layout, fetches, progress).await?;
        let image = self.commit(record(&found.manifest_digest, &found.manifest, &layers), wanted).await;
        // The leases keep the content until the image's row names it.
        drop((manifest, config, layers));
        image
    }

    async fn take_config(&self, layout: &Arc<Layout>, found: &Found) -> Result<Config> {
        let (layout, descriptor) = (Arc::clone(layout), found.manifest.config.clone());
        let take = move |store: &Store| -> Result<Config, Failure> {
            if let Some(known) = config::find(store, &descriptor.digest, descriptor.size)? {
                return Ok(known);
            }
            let bytes = layout.small(&descriptor, MAX_CONFIG_BYTES)?;
            let stored = store.put_blob(&descriptor.digest, &bytes)?;
            Ok(Config { stored: Some(Arc::new(stored)), bytes })
        };
        let store = self.store.clone();
        Ok(within(STALL, move || take(&store)).await??)
    }

    async fn take_layers(&self, layout: &Arc<Layout>, fetches: Vec<Fetch>, progress: &Progress) -> Result<Vec<Layer>> {
        for fetch in &fetches {
            progress.show(&fetch.download.progress);
        }
        let takes = fetches.into_iter().map(|Fetch { layer: plan, download, .. }| async move {
            let permit = self.permits.acquire().await;
            let _permit = permit.map_err(|_| ImageServiceError::Cancelled)?;
            let stored = Arc::new(self.take_layer(layout, &plan, &download.progress).await?);
            download.is_stored();
            let entries = self.entries(Arc::clone(&stored)).await?;
            Ok::<_, ImageServiceError>((Layer { plan, stored }, entries))
        });
        let layers = stream::iter(takes).buffered(self.concurrency.blobs_per_pull.max(1));
        self.within_budget(layers).await
    }

    fn local(&self, right: &Right, layer: LayerPlan) -> Fetch {
        Fetch {
            registry: Arc::clone(&self.registry),
            store: self.store.clone(),
            downloads: Arc::clone(&self.downloads),
            right: right.clone(),
            download: self.downloads.get_or_make(FetchKey::local(&layer)),
            layer,
        }
    }

    async fn missing(&self, fetches: &[Fetch]) -> Result<Vec<Fetch>> {
        let fetches = fetches.to_vec();
        self.blocking(move |store| {
            let mut missing = Vec::new();
            for fetch in fetches {
                if fetch::find(store, &fetch.layer)?.is_none() {
                    missing.push(fetch);
                }
            }
            Ok(missing)
        })
        .await
    }

    /// Makes a layer present, from bytes of the layout if it is not. When this is dropped, the copy ends. A directory that does not answer
    /// is [`ImageServiceError::Unavailable`].
    pub(crate) async fn take_layer(
        &self,
        layout: &Arc<Layout>,
        layer: &LayerPlan,
        progress: &Counter,
    ) -> Result<Stored> {
        let taken = match self.copy(layout, layer, progress).await {
            // Bytes of an earlier try were wrong, and are gone now.
            Err(Failure::Store(StoreError::Resumed { .. })) => self.copy(layout, layer, progress).await,
            copied => copied,
        };
        taken.map_err(|failure| failure.of_layer(&layer.descriptor.digest))
    }

    async fn copy(&self, layout: &Arc<Layout>, layer: &LayerPlan, progress: &Counter) -> Result<Stored, Failure> {
        let (store, plan) = (self.store.clone(), layer.clone());
        if let Some(stored) = imagevol_base::blocking(move || fetch::find(&store, &plan)).await? {
            return Ok(stored);
        }
        // Before a directory is made for it.
        let (layout, digest, size) = (Arc::clone(layout), layer.descriptor.digest.clone(), layer.descriptor.size);
        let blob = within(STALL, move || layout.blob(&digest, size)).await??;
        let (store, plan) = (self.store.clone(), layer.clone());
        match imagevol_base::blocking(move || begin(&store, &plan, blob)).await? {
            Begun::Here(stored) => Ok(stored),
            Begun::Ingest(ingest, blob) => {
                progress.set(ingest.offset());
                let (sender, chunks) = channel();
                // Should this future be dropped, the channel is too, and the writer ends with what it has.
                let writer = imagevol_base::blocking(move || ingest.run(chunks));
                let (stored, read) = tokio::join!(writer, feed(blob, sender, progress, &layer.descriptor.digest));
                match (stored, read) {
                    // The writer's error is only the echo of the reader's.
                    (Err(StoreError::Source { .. }), Err(failure)) => Err(failure),
                    (stored, _) => Ok(stored?),
                }
            }
        }
    }
}

/// Waits for whoever brings the same, and may have brought it.
fn begin(store: &Store, layer: &LayerPlan, mut blob: Blob) -> Result<Begun, StoreError> {
    let ingest = store.begin(&layer.descriptor.digest, layer.descriptor.size, layer.form.clone())?;
    if let Some(stored) = fetch::find(store, layer)? {
        return Ok(Begun::Here(stored));
    }
    blob.skip(ingest.offset());
    Ok(Begun::Ingest(ingest, blob))
}

/// Hands the bytes on, until they end or the writer has failed, which says why itself.
async fn feed(blob: Blob, sender: Sender, progress: &Counter, layer: &Digest) -> Result<(), Failure> {
    let failed = |source| Failure::Layout(LayoutError::Read { what: layer.to_string(), source });
    let mut blob = blob;
    loop {
        let read = move || {
            let mut bytes = Vec::new();
            blob.by_ref().take(CHUNK).read_to_end(&mut bytes)?;
            Ok::<_, io::Error>((blob, bytes))
        };
        let (rest, bytes) = within(STALL, read).await?.map_err(failed)?;
        blob = rest;
        if bytes.is_empty() {
            // A writer that is gone has said why.
            drop(sender.end().await);
            return Ok(());
        }
        progress.add(bytes.len() as u64);
        if sender.send(bytes.into()).await.is_err() {
            return Ok(());
        }
    }
}

/// What a call of a directory that may hang says. One that hangs keeps its thread until the kernel lets it go.
async fn within<T: Send + 'static>(time: Duration, call: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::time::timeout(time, imagevol_base::blocking(call)).await.map_err(|_| Failure::Silent)
}

// === impl Failure ===

impl From<LayoutError> for Failure {
    fn from(error: LayoutError) -> Self {
        Self::Layout(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Failure {
    /// The error of a layer, which is told apart from the others of its image.
    fn of_layer(self, layer: &Digest) -> ImageServiceError {
        match self {
            Self::Store(error) if error.is_content() => content_of(layer, &error),
            other @ (Self::Layout(_) | Self::Store(_) | Self::Silent) => other.into(),
        }
    }
}

impl From<Failure> for ImageServiceError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Layout(error) => of_layout(&error),
            Failure::Store(error) => of_store(&error),
            Failure::Silent => {
                let message = format!("no bytes have come from the directory for {} s", STALL.as_secs());
                Self::Unavailable { message }
            }
        }
    }
}
