//! The layers of one image: each is here already, or comes in with a download that whoever wants the same shares.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use imagevol_api::oci::Digest;
use imagevol_cri::{ImageServiceError, Progress, Result};
use imagevol_store::{Known, Store, StoreError, Stored};

use crate::EmbeddedImageService;
use crate::budget::{Budget, Cost};
use crate::error::of_registry;
use crate::fetch::{self, Fetch, FetchError, FetchKey, Fetched};
use crate::plan::LayerPlan;
use crate::right::Proofs;
use imagevol_api::text::chain;

/// Content of an image that is present and leased, beside what was planned.
pub(crate) struct Layer {
    pub(crate) plan: LayerPlan,
    pub(crate) stored: Arc<Stored>,
}

/// What is fetched, and what of it is here already.
type Found = (Fetch, Option<Arc<Stored>>);

impl EmbeddedImageService {
    /// Makes all layers present.
    pub(crate) async fn fetch_layers(
        &self,
        proofs: &Proofs,
        plans: Vec<LayerPlan>,
        progress: &Progress,
    ) -> Result<Vec<Layer>> {
        let fetches: Vec<Fetch> = plans.into_iter().map(|layer| self.fetch(proofs, layer)).collect();
        for fetch in &fetches {
            progress.show(&fetch.download.progress);
        }
        // The leases of what is here keep it while room is made for the rest.
        let found = self.find_layers(unique(&fetches), proofs).await?;
        let is_missing = |(fetch, stored): &Found| stored.is_none().then(|| fetch.clone());
        let missing: Vec<Fetch> = found.iter().filter_map(is_missing).collect();
        self.make_room(&proofs.right().reference, &missing).await?;
        let layers = self.obtain_all(fetches, proofs).await;
        drop(found);
        layers
    }

    fn fetch(&self, proofs: &Proofs, layer: LayerPlan) -> Fetch {
        let right = proofs.right().clone();
        Fetch {
            registry: Arc::clone(&self.registry),
            store: self.store.clone(),
            downloads: Arc::clone(&self.downloads),
            download: self.downloads.get_or_make(FetchKey::of(&layer, &right.reference)),
            right,
            layer,
        }
    }

    async fn find_layers(&self, fetches: Vec<Fetch>, proofs: &Proofs) -> Result<Vec<Found>> {
        let found = fetches.into_iter().map(|fetch| async move {
            let stored = self.present(&fetch, proofs).await?;
            Ok((fetch, stored))
        });
        stream::iter(found).buffered(self.width()).try_collect().await
    }

    /// Some blobs of one pull at once; the node's limit is held by each fetch. Whoever waits for it is served in the order in which he
    /// came, so that a pull of many layers is never more than its few ahead of another.
    async fn obtain_all(&self, fetches: Vec<Fetch>, proofs: &Proofs) -> Result<Vec<Layer>> {
        let fetches = fetches.into_iter().map(|fetch| async move {
            let stored = self.obtain(&fetch, proofs).await?;
            let entries = self.entries(Arc::clone(&stored)).await?;
            Ok::<_, ImageServiceError>((Layer { plan: fetch.layer, stored }, entries))
        });
        self.within_budget(stream::iter(fetches).buffered(self.width())).await
    }

    /// All layers with their entries, as long as they are no more together than an image may be.
    pub(crate) async fn within_budget(&self, obtained: impl Stream<Item = Result<(Layer, u64)>>) -> Result<Vec<Layer>> {
        let limits = Cost { bytes: self.limits.max_image_bytes, entries: self.store.limits().max_entries };
        let (mut budget, mut paid) = (Budget::new(limits), HashSet::new());
        let mut obtained = pin!(obtained);
        let mut layers = Vec::new();
        while let Some((layer, entries)) = obtained.try_next().await? {
            // Bytes are stored once however often they are listed; entries are merged each time.
            let is_new = paid.insert(layer.stored.lease.key().clone());
            let bytes = if is_new { layer.stored.content.size } else { 0 };
            let spent = budget.spend(Cost { bytes, entries });
            spent.map_err(|error| ImageServiceError::Invalid { message: chain(&error) })?;
            layers.push(layer);
        }
        Ok(layers)
    }

    pub(crate) async fn entries(&self, stored: Arc<Stored>) -> Result<u64> {
        self.blocking(move |store| store.entries(stored.lease.key())).await
    }

    fn width(&self) -> usize {
        self.concurrency.blobs_per_pull.max(1)
    }

    /// One layer, here or fetched by whoever is first to want it. Nobody gets what somebody else has fetched before the registry
    /// has said that he may.
    async fn obtain(&self, fetch: &Fetch, proofs: &Proofs) -> Result<Arc<Stored>> {
        let (key, digest) = (FetchKey::of(&fetch.layer, &fetch.right.reference), &fetch.layer.descriptor.digest);
        loop {
            if let Some(stored) = self.present(fetch, proofs).await? {
                return Ok(stored);
            }
            // To be told no at once, and not after somebody else's download: what counts is asked below.
            if self.blobs.is_running(&key) && !fetch.download.runs_with(&fetch.right) {
                self.prove(digest, proofs).await?;
            }
            let mut mine = false;
            let start = || {
                mine = true;
                fetch.download.run_with(&fetch.right);
                self.clone().make_present(fetch.clone(), proofs.clone())
            };
            let result = self.blobs.run(key.clone(), start).await;
            match result.unwrap_or_else(|| Err(fetch.error(ImageServiceError::Cancelled))) {
                Ok(fetched) if mine || fetched.by == fetch.right || proofs.cover(digest) => {
                    proofs.add(digest);
                    return Ok(fetched.stored);
                }
                // With the right of another: it is here now, and asked for like all that is here.
                Ok(_) => {}
                Err(failed) if !mine && failed.spares(&fetch.right.reference) => {}
                Err(failed) => return Err(failed.error),
            }
        }
    }

    async fn make_present(self, fetch: Fetch, proofs: Proofs) -> Result<Fetched, FetchError> {
        let by = fetch.right.clone();
        if let Some(stored) = self.present(&fetch, &proofs).await.map_err(|error| fetch.error(error))? {
            return Ok(Fetched { stored, by });
        }
        let permit = self.permits.acquire().await;
        let _permit = permit.map_err(|_| fetch.error(ImageServiceError::Cancelled))?;
        let taken = self.take_proven(&fetch, &proofs).await.map_err(|error| fetch.error(error))?;
        let stored = if let Some(stored) = taken { stored } else { fetch.run().await? };
        fetch.download.is_stored();
        Ok(Fetched { stored, by })
    }

    /// What an additional store has of it, if the registry would give it: such a store spares the network, and opens nothing to those
    /// who name a digest.
    async fn take_proven(&self, fetch: &Fetch, proofs: &Proofs) -> Result<Option<Arc<Stored>>> {
        if self.stores.is_empty() {
            return Ok(None);
        }
        self.prove(&fetch.layer.descriptor.digest, proofs).await?;
        Ok(self.take_from_stores(&fetch.layer, &fetch.download.progress).await)
    }

    /// Content that is here, if this pull could fetch it; `None` if it must.
    async fn present(&self, fetch: &Fetch, proofs: &Proofs) -> Result<Option<Arc<Stored>>> {
        let (layer, repository) = (fetch.layer.clone(), fetch.right.reference.clone());
        let find = move |store: &Store| -> Result<_, StoreError> {
            let Some(stored) = fetch::find(store, &layer)? else { return Ok(None) };
            let known = store.known_to(&stored, &layer.descriptor.digest, &repository)?;
            Ok(Some((stored, known)))
        };
        let digest = &fetch.layer.descriptor.digest;
        let stored = match self.blocking(find).await? {
            // A registry's word on what it has never shown is worth nothing: it may be the pod owner's own.
            None | Some((_, Known::Nowhere)) => return Ok(None),
            Some((stored, Known::InRepository)) => stored,
            Some((stored, Known::ToRegistry)) => {
                self.prove(digest, proofs).await?;
                stored
            }
        };
        fetch.download.is_stored();
        Ok(Some(Arc::new(stored)))
    }

    /// Asks the registry whether it gives the blob to who pulls, once a pull.
    async fn prove(&self, digest: &Digest, proofs: &Proofs) -> Result<()> {
        if proofs.cover(digest) {
            return Ok(());
        }
        let right = proofs.right();
        let checked = self.registry.check_blob(&right.reference, digest, &right.credential).await;
        checked.map_err(|error| of_registry(&error))?;
        proofs.add(digest);
        Ok(())
    }
}

/// Each once, however often the manifest lists it.
fn unique(fetches: &[Fetch]) -> Vec<Fetch> {
    let mut seen = HashSet::new();
    let mut is_new = |fetch: &&Fetch| seen.insert(FetchKey::of(&fetch.layer, &fetch.right.reference));
    fetches.iter().filter(|fetch| is_new(fetch)).cloned().collect()
}
