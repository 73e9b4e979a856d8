//! Lists of images to keep present, on this node's image service.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use imagevol_api::config::ImagevolConfiguration;
use imagevol_api::oci::Reference;
use imagevol_base::{Holder, Supervisor, blocking};
use imagevol_cri::{ImageId, ImageReferences as _, ImageServiceError, Progress};
use imagevol_images::{ImageManager, NodePull};
use imagevol_imageservice::EmbeddedImageService;
use imagevol_prefetch::{Keeper, ListSource, NodeImages, Overview, Parts, Present, PullFailed, Row, Wanted};
use imagevol_store::{Terms, Until};
use jiff::Timestamp;
use tokio::sync::watch;

use super::{Images, Metrics};

/// The node's images as lists see them.
struct OfNode {
    service: Arc<EmbeddedImageService>,
    images: Arc<ImageManager<Images>>,
}

/// Follows the lists, and keeps their images present. What is received changes for the first time when rows keep them.
pub(super) async fn start(
    config: &ImagevolConfiguration,
    (service, images): (&Arc<EmbeddedImageService>, &Arc<ImageManager<Images>>),
    metrics: &Metrics,
    supervisor: &Supervisor,
) -> watch::Receiver<Arc<Overview>> {
    let source = ListSource::new(config.prefetch_path.clone(), config.file_check_frequency.into());
    let parts = Parts {
        images: Arc::new(OfNode { service: Arc::clone(service), images: Arc::clone(images) }),
        lists: source.subscribe(),
        state_dir: config.state_dir.clone(),
        wall: Arc::new(Timestamp::now),
        metrics: metrics.prefetch.clone(),
        supervisor: supervisor.child("prefetch"),
    };
    let keeper = blocking(move || Keeper::new(parts)).await;
    let overview = keeper.subscribe();
    let (mut read, token) = (source.subscribe(), supervisor.token());
    supervisor.spawn("prefetch lists", source.run(supervisor.token()));
    // The first that it says is about lists that have been read.
    supervisor.spawn("prefetch", async move {
        tokio::select! {
            () = token.cancelled() => {}
            read = read.changed() => if read.is_ok() { keeper.run(token.clone()).await },
        }
    });
    overview
}

// === impl OfNode ===

#[async_trait]
impl NodeImages for OfNode {
    async fn rows(&self) -> Result<Vec<(Holder, Row)>, ImageServiceError> {
        let store = self.service.store().clone();
        let (now, wall) = (store.now(), Timestamp::now());
        let rows = blocking(move || store.references()).await;
        let rows = rows.map_err(|error| ImageServiceError::Node { message: error.to_string() })?;
        let of_lists =
            rows.into_iter().filter(|(holder, row)| matches!(holder, Holder::Prefetch { .. }) && !row.is_over(now));
        let rows = of_lists.map(|(holder, row)| {
            let expires = row.expires.map(|time| wall.checked_add(time.since(now)).unwrap_or(Timestamp::MAX));
            (holder, Row { reference: row.reference, image: row.image.map(ImageId::new), expires })
        });
        Ok(rows.collect())
    }

    async fn present(&self, reference: &str) -> Result<Option<Present>, ImageServiceError> {
        let found = self.service.find_image(reference).await?;
        Ok(found.map(|image| Present {
            image: ImageId::new(image.manifest),
            pulled_at: Timestamp::from_second(image.pulled_at).unwrap_or(Timestamp::UNIX_EPOCH),
        }))
    }

    async fn hold(&self, holder: &Holder, reference: &str) -> Result<(), ImageServiceError> {
        self.service.hold(holder, reference).await
    }

    async fn hold_for(&self, holder: &Holder, reference: &str, lasts: Duration) -> Result<(), ImageServiceError> {
        let terms = Terms { lasts: Some(lasts), until: Until::Used };
        self.service.hold_for(holder, reference, terms).await
    }

    async fn bind(&self, holder: &Holder, image: &ImageId) -> Result<(), ImageServiceError> {
        self.service.bind(holder, image).await.map(drop)
    }

    async fn release(&self, holder: &Holder) -> Result<(), ImageServiceError> {
        self.service.release(holder).await
    }

    async fn pull(&self, wanted: Wanted<'_>, progress: &Progress) -> Result<ImageId, PullFailed> {
        let parsed = Reference::parse(wanted.reference);
        let reference = parsed.map_err(|error| PullFailed { message: error.to_string() })?;
        let pull = NodePull { reference: &reference, holder: wanted.holder, policy: wanted.policy, progress };
        self.images.pull_for_node(pull).await.map_err(|error| PullFailed { message: error.message() })
    }
}
