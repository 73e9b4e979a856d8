//! What is shown of the node as it is at the moment: bytes on disk, and mounted volumes.

use std::sync::Arc;
use std::time::Duration;

use imagevol_base::Supervisor;
use imagevol_base::volumes::{VolumeReports, VolumeState};
use imagevol_store::{Store, Usage, UsageKind};
use imagevol_volumemanager::{DoorState, Volumes};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often what is stored is added up at most: alerts look at minutes.
const LOOK: Duration = Duration::from_mins(1);
/// The share of time that adding up may take, as its inverse: with very many images it is done less often.
const SHARE: u32 = 100;

/// Bytes of what is stored, by kind, as they were added up last; `None` before the first time.
#[derive(Debug)]
struct StoreGauge(watch::Receiver<Option<Arc<Vec<Usage>>>>);

/// How many volumes are mounted, of pods and of kubelets.
#[derive(Debug)]
pub(super) struct MountedGauge {
    pub(super) reports: watch::Receiver<Option<Arc<VolumeReports>>>,
    pub(super) doors: Volumes,
}

// === impl StoreGauge ===

impl Collector for StoreGauge {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(stored) = self.0.borrow().clone() else { return Ok(()) };
        let help = "Bytes on disk below the state directory, by what they are";
        let mut family = encoder.encode_descriptor("imagevol_store_bytes", help, None, MetricType::Gauge)?;
        for usage in &*stored {
            let bytes = ConstGauge::new(i64::try_from(usage.bytes).unwrap_or(i64::MAX));
            bytes.encode(family.encode_family(&[("kind", label(usage.kind))])?)?;
        }
        Ok(())
    }
}

// === impl MountedGauge ===

impl MountedGauge {
    fn count(&self) -> usize {
        let reports = self.reports.borrow().clone().unwrap_or_default();
        let of_pods = reports.values().flat_map(|report| report.volumes.values());
        let of_pods = of_pods.filter(|state| matches!(state, VolumeState::Mounted { .. })).count();
        let of_doors = self.doors.list().into_iter();
        of_pods + of_doors.filter(|(_, volume)| matches!(volume.state, DoorState::Mounted(_))).count()
    }
}

impl Collector for MountedGauge {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mounted = ConstGauge::new(i64::try_from(self.count()).unwrap_or(i64::MAX));
        let (name, help) = ("imagevol_mounted_volumes", "Image volumes that are mounted now");
        mounted.encode(encoder.encode_descriptor(name, help, None, mounted.metric_type())?)
    }
}

/// Shows what is stored, added up again and again in the background: a scrape looks at no disk.
pub(super) fn store(store: &Store, supervisor: &Supervisor) -> impl Collector + use<> {
    let (to, stored) = watch::channel(None);
    supervisor.spawn("store gauge", add_up(store.clone(), to, supervisor.token()));
    StoreGauge(stored)
}

async fn add_up(store: Store, to: watch::Sender<Option<Arc<Vec<Usage>>>>, cancel: CancellationToken) {
    loop {
        let (store, began) = (store.clone(), Instant::now());
        match imagevol_base::blocking(move || store.disk_usage()).await {
            Ok(usage) => drop(to.send_replace(Some(Arc::new(usage)))),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "what is stored cannot be added up");
            }
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(pause(began.elapsed())) => {}
        }
    }
}

fn pause(took: Duration) -> Duration {
    LOOK.max(took.saturating_mul(SHARE))
}

/// As `imagevol df` calls it, in the way of labels.
const fn label(kind: UsageKind) -> &'static str {
    match kind {
        UsageKind::Layers => "layers",
        UsageKind::ArtifactFiles => "artifact_files",
        UsageKind::ImageIndexes => "image_indexes",
        UsageKind::ManifestsAndConfigs => "manifests_and_configs",
        UsageKind::UnfinishedDownloads => "unfinished_downloads",
        UsageKind::Quarantine => "quarantine",
        UsageKind::Database => "database",
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn what_is_stored_is_shown_by_kind_once_it_is_known() {
        let (to, stored) = watch::channel(None);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(StoreGauge(stored)));
        let page = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        };
        assert!(!page().contains("imagevol_store_bytes"), "{}", page());
        let usage = |kind, bytes| Usage { kind, count: 1, active: 0, bytes, reclaimable: 0 };
        let kinds = [(UsageKind::Layers, 4096), (UsageKind::ManifestsAndConfigs, 7)];
        to.send_replace(Some(Arc::new(kinds.map(|(kind, bytes)| usage(kind, bytes)).to_vec())));
        for line in [
            "# TYPE imagevol_store_bytes gauge",
            r#"imagevol_store_bytes{kind="layers"} 4096"#,
            r#"imagevol_store_bytes{kind="manifests_and_configs"} 7"#,
        ] {
            assert!(page().lines().any(|each| each == line), "{line} is not in\n{}", page());
        }
    }

    #[test]
    fn a_large_store_is_added_up_less_often() {
        assert_eq!(pause(Duration::from_millis(5)), LOOK);
        assert_eq!(pause(Duration::from_secs(2)), Duration::from_secs(200));
    }
}
