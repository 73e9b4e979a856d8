//! Removal of images that nobody needs: the store chooses and decides, this carries it out.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use imagevol_base::blocking;
use imagevol_base::collection::{Collected, Collection, Execution, Goal, NodeTime, Stay, Stayed, Turn, Turns, Wish};
use imagevol_cri::{Holder, ImageCollector, Result};
use imagevol_store::{Removed, StoreError, Terms};

use crate::EmbeddedImageService;
use crate::error::of_store;
use crate::service::normalized;
use imagevol_api::text::chain;

/// What became of an image that was to go.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Gone(Removed),
    /// Somebody has begun to need it meanwhile.
    Stays(Stay),
    /// Somebody else has removed it meanwhile.
    Absent,
    Failed(String),
}

impl EmbeddedImageService {
    /// Writes that `holder` wants `reference` on these terms, which begin anew each time: see
    /// [`hold`](imagevol_cri::ImageReferences::hold).
    pub async fn hold_for(&self, holder: &Holder, reference: &str, terms: Terms) -> Result<()> {
        let (holder, reference) = (holder.clone(), normalized(reference));
        self.blocking(move |store| store.hold_for(&holder, &reference, terms)).await
    }

    /// Every image that may go is tried in its order until the goal is met: one that turns out to be needed, or cannot be removed, is
    /// made up for by the next.
    async fn carry_out(&self, wish: Wish) -> Result<Collection> {
        let (wanted, all) = match wish.goal {
            Goal::Free(bytes) => (bytes, Wish { goal: Goal::Everything, ..wish }),
            Goal::UnusedFor(_) | Goal::Everything => (u64::MAX, wish),
        };
        let (planned, seen) = self.plan(all).await?;
        let mut done = Collection { stayed: planned.stayed, ..Collection::default() };
        for image in planned.gone {
            if done.freed_bytes() >= wanted {
                done.stayed.push(stayed(image, Stay::NotNeeded));
                continue;
            }
            match self.remove_unneeded(&image, seen).await {
                Outcome::Gone(removed) => {
                    let freed_bytes = removed.freed_bytes;
                    done.gone.push(Collected { names: removed.names, freed_bytes, ..image });
                }
                Outcome::Stays(because) => done.stayed.push(stayed(image, because)),
                Outcome::Absent => {}
                Outcome::Failed(message) => done.failed.push((image.image, message)),
            }
        }
        Ok(done)
    }

    /// What would go, and when that was seen.
    async fn plan(&self, wish: Wish) -> Result<(Collection, NodeTime)> {
        // What is staged and held by nobody looks mounted.
        if let Err(error) = self.unstage_unused().await {
            tracing::warn!(%error, "an image that nobody holds stays staged");
        }
        let store = self.store.clone();
        let planned = blocking(move || {
            let census = store.census()?;
            Ok((imagevol_store::plan(&census, wish), census.taken))
        });
        planned.await.map_err(|error| of_store(&error))
    }

    /// On its own thread for each image: a collection whose caller goes away ends after the image at hand.
    async fn remove_unneeded(&self, image: &Collected, seen: NodeTime) -> Outcome {
        let (image, store, staging) = (image.image.clone(), self.store.clone(), Arc::clone(&self.staging));
        blocking(move || match staging.unstage_if_unused(&image) {
            Ok(()) => outcome(store.remove_unneeded(&image, seen)),
            Err(error) => Outcome::Failed(error.to_string()),
        })
        .await
    }
}

#[async_trait]
impl ImageCollector for EmbeddedImageService {
    fn turns(&self) -> &Turns {
        &self.turns
    }

    async fn collect(&self, _turn: &Turn, wish: Wish, execution: Execution) -> Result<Collection> {
        match execution {
            Execution::Delete => self.carry_out(wish).await,
            Execution::DryRun => Ok(self.plan(wish).await?.0),
        }
    }
}

fn outcome(removed: Result<Removed, StoreError>) -> Outcome {
    match removed {
        Ok(removed) => Outcome::Gone(removed),
        Err(StoreError::InUse(holders)) => {
            Outcome::Stays(Stay::Held(holders.iter().filter_map(|holder| holder.parse().ok()).collect()))
        }
        Err(StoreError::Pinned(pins)) => Outcome::Stays(Stay::Pinned(pins)),
        Err(StoreError::Mounted(_)) => Outcome::Stays(Stay::Mounted),
        Err(StoreError::UsedSince(_)) => Outcome::Stays(Stay::Young(Duration::ZERO)),
        Err(StoreError::NoImage(_)) => Outcome::Absent,
        Err(error) => Outcome::Failed(chain(&error)),
    }
}

fn stayed(image: Collected, because: Stay) -> Stayed {
    Stayed { image: image.image, names: image.names, because }
}
