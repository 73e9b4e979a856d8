//! An image from a layout, by the same steps as from a registry: each layer is verified as it is stored, the image is committed at once.

use std::io::{self, BufReader, Read};
use std::sync::{Arc, Weak};

use futures_util::{StreamExt as _, stream};
use imagevol_api::auth::Credential;
use imagevol_api::oci::Reference;
use imagevol_cri::progress::Blob as Counter;
use imagevol_cri::{ImageServiceError, Progress, Result};
use imagevol_layout::{Blob, Found, Layout, LayoutError};
use imagevol_registry::ManifestKind;
use imagevol_store::{ImageRecord, Store, StoreError, Stored};

use crate::EmbeddedImageService;
use crate::config::{self, Config, MAX_CONFIG_BYTES};
use crate::error::{of_layout, of_plan, of_store};
use crate::fetch::{self, Fetch, FetchKey};
use crate::layers::Layer;
use crate::plan::{LayerPlan, plan};
use crate::pull::{Wanted, check_sizes, record};
use crate::right::Right;

/// Bytes that are read at once.
const CHUNK: usize = 256 * 1024;

/// Why a layer was not taken.
enum Failure {
    Layout(LayoutError),
    Store(StoreError),
}

/// Reads a blob, counts, and ends when nobody waits any more.
struct Counted {
    blob: Blob,
    progress: Counter,
    waiting: Weak<()>,
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
        check_sizes(&found.manifest, self.limits)?;
        if let Some(image) = self.commit_present(&found.manifest_digest, &wanted).await? {
            return Ok(image);
        }
        let (digest, bytes) = (found.manifest_digest.clone(), found.manifest_bytes.clone());
        let manifest = self.blocking(move |store| store.put_blob(&digest, &bytes)).await?;
        let config = match found.manifest.kind() {
            ManifestKind::Image => self.take_config(layout, &found).await?,
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
        Ok(imagevol_base::blocking(move || take(&store)).await?)
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

    /// Makes a layer present, from bytes of the layout if it is not. When this is dropped, the copy ends.
    pub(crate) async fn take_layer(
        &self,
        layout: &Arc<Layout>,
        layer: &LayerPlan,
        progress: &Counter,
    ) -> Result<Stored> {
        let waiting = Arc::new(());
        let take = {
            let (store, layout, layer) = (self.store.clone(), Arc::clone(layout), layer.clone());
            let (progress, waiting) = (progress.clone(), Arc::downgrade(&waiting));
            move || match copy(&store, &layout, &layer, (&progress, &waiting)) {
                // Bytes of an earlier try were wrong, and are gone now.
                Err(Failure::Store(StoreError::Resumed { .. })) => copy(&store, &layout, &layer, (&progress, &waiting)),
                copied => copied,
            }
        };
        let stored = imagevol_base::blocking(take).await;
        drop(waiting);
        Ok(stored?)
    }
}

fn copy(
    store: &Store,
    layout: &Layout,
    layer: &LayerPlan,
    (progress, waiting): (&Counter, &Weak<()>),
) -> Result<Stored, Failure> {
    if let Some(stored) = fetch::find(store, layer)? {
        return Ok(stored);
    }
    let (digest, size) = (&layer.descriptor.digest, layer.descriptor.size);
    // Before a directory is made for it.
    let mut blob = layout.blob(digest, size)?;
    let ingest = store.begin(digest, size, layer.form.clone())?;
    // Whoever was waited for may have brought it.
    if let Some(stored) = fetch::find(store, layer)? {
        return Ok(stored);
    }
    blob.skip(ingest.offset());
    progress.set(ingest.offset());
    let counted = Counted { blob, progress: progress.clone(), waiting: waiting.clone() };
    Ok(ingest.run(BufReader::with_capacity(CHUNK, counted))?)
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

impl From<Failure> for ImageServiceError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Layout(error) => of_layout(&error),
            Failure::Store(error) => of_store(&error),
        }
    }
}

// === impl Counted ===

impl Read for Counted {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.waiting.strong_count() == 0 {
            return Err(io::Error::other("nobody waits for it any more"));
        }
        let count = self.blob.read(out)?;
        self.progress.add(count as u64);
        Ok(count)
    }
}
