//! What waits at a start until it is known who needs which image.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use imagevol_base::volumes::VolumeReports;
use imagevol_cri::ImageCollector as _;
use imagevol_imageservice::EmbeddedImageService;
use imagevol_prefetch::Overview;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::cluster::Cluster;

/// How long prefetch lists and the API server are waited for. A server that is away must not keep a full disk full; what is pulled
/// again then costs time, and nothing else.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who may need images.
pub(super) struct Needs {
    /// Once there is a report, all manifests have been read, and rows keep the images of their pods.
    pub(super) reports: watch::Receiver<Option<Arc<VolumeReports>>>,
    /// Once it changes, the lists have been read, and rows keep their images.
    pub(super) prefetch: watch::Receiver<Arc<Overview>>,
    pub(super) cluster: Option<Cluster>,
}

/// What came of the waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Everybody,
    /// Those who were not waited for any longer are missing.
    Manifests,
    /// The process ends.
    Nobody,
}

// === impl Needs ===

impl Needs {
    /// Then staged images that nobody holds are unmounted, and unneeded ones may be removed: what came while no daemon ran has been
    /// asked first.
    pub(super) async fn settle(self, service: Arc<EmbeddedImageService>, cancel: CancellationToken) {
        let known = tokio::select! {
            () = cancel.cancelled() => return,
            known = self.known() => known,
        };
        match known {
            Known::Everybody => tracing::debug!("it is known who needs which image"),
            Known::Manifests => {
                tracing::warn!("the API server or prefetch lists are not waited for before images are removed");
            }
            Known::Nobody => return,
        }
        if let Err(error) = service.unstage_unused().await {
            tracing::error!(%error, "cannot unmount staged images that nobody uses");
        }
        service.turns().open();
    }

    async fn known(self) -> Known {
        let Self { reports, mut prefetch, cluster } = self;
        let others = async move {
            if prefetch.changed().await.is_err() {
                tracing::debug!("prefetch lists are followed no more");
            }
            if let Some(cluster) = cluster {
                cluster.told().await;
            }
        };
        wait(reports, others).await
    }
}

/// Manifests are waited for as long as it takes: without them nothing is unmounted either, and `/readyz` says so.
async fn wait(mut reports: watch::Receiver<Option<Arc<VolumeReports>>>, others: impl Future<Output = ()>) -> Known {
    let others = tokio::time::timeout(PATIENCE, others);
    let (reported, others) = tokio::join!(async { reports.wait_for(Option::is_some).await.is_ok() }, others);
    match (reported, others) {
        (false, _) => Known::Nobody,
        (true, Ok(())) => Known::Everybody,
        (true, Err(_)) => Known::Manifests,
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    /// Minutes after the start at which each is known; `None` is never.
    async fn waited(reports: Option<u64>, others: Option<u64>) -> (Known, Duration) {
        let (report, reported) = watch::channel(None);
        let at = |minutes: Option<u64>| async move {
            match minutes {
                Some(minutes) => tokio::time::sleep(Duration::from_mins(minutes)).await,
                None => std::future::pending().await,
            }
        };
        let began = Instant::now();
        let reporting = async {
            at(reports).await;
            report.send_replace(Some(Arc::default()));
            std::future::pending::<()>().await;
        };
        let known = tokio::select! {
            known = wait(reported, at(others)) => known,
            () = reporting => Known::Nobody,
        };
        (known, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn manifests_are_waited_for_and_others_for_a_while() {
        assert_eq!(waited(Some(0), Some(0)).await, (Known::Everybody, Duration::ZERO));
        assert_eq!(waited(Some(600), Some(0)).await, (Known::Everybody, Duration::from_hours(10)));
        assert_eq!(waited(Some(0), None).await, (Known::Manifests, PATIENCE));
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_before_all_is_known_removes_nothing() {
        let (report, reported) = watch::channel(None);
        drop(report);
        assert_eq!(wait(reported, async {}).await, Known::Nobody);
    }
}
