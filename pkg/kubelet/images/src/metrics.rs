//! The kubelet's metrics of its image manager, by their upstream names.

use std::fmt::{self, Write as _};
use std::time::Duration;

use imagevol_base::collection::Collection;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::gc::GcReason;
use crate::policy::{Facts, Known, PullPolicy};
use crate::providers::ProviderMetrics;
use crate::pull_manager::CheckResult;

/// Seconds (Kubernetes, `pkg/kubelet/metrics/metrics.go`, `imagePullDurationBuckets`).
const PULL_DURATION_BUCKETS: [f64; 14] =
    [1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 180.0, 300.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0];
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// More bytes than this, and the label (the same file, `imageSizeBuckets`); the last that fits counts.
const SIZE_BUCKETS: [(u64, &str); 12] = [
    (0, "0-10MB"),
    (10 * MIB, "10MB-100MB"),
    (100 * MIB, "100MB-500MB"),
    (500 * MIB, "500MB-1GB"),
    (GIB, "1GB-5GB"),
    (5 * GIB, "5GB-10GB"),
    (10 * GIB, "10GB-20GB"),
    (20 * GIB, "20GB-30GB"),
    (30 * GIB, "30GB-40GB"),
    (40 * GIB, "40GB-60GB"),
    (60 * GIB, "60GB-100GB"),
    (100 * GIB, "GT100GB"),
];
/// The label of an image whose size is not known.
const SIZE_UNKNOWN: &str = "N/A";

/// Counters of the image manager. Clones count into the same place.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    pull_duration: Family<SizeLabels, Histogram, fn() -> Histogram>,
    checks: Family<CheckLabels, Counter>,
    intents: Gauge,
    records: Gauge,
    collected: Family<CollectedLabels, Counter>,
    freed_bytes: Family<CollectedLabels, Counter>,
    failed_cycles: Counter,
    pub(crate) providers: ProviderMetrics,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    pull_policy: PullPolicy,
    present_locally: Known,
    pull_required: Known,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SizeLabels {
    image_size_in_bytes: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CheckLabels {
    result: CheckResult,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CollectedLabels {
    reason: GcReason,
}

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            pull_duration: Family::new_with_constructor(|| Histogram::new(PULL_DURATION_BUCKETS)),
            checks: Family::default(),
            intents: Gauge::default(),
            records: Gauge::default(),
            collected: from_zero(),
            freed_bytes: from_zero(),
            failed_cycles: Counter::default(),
            providers: ProviderMetrics::default(),
        }
    }
}

impl Metrics {
    /// Shows the metrics in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Number of ensure-image requests processed by the kubelet";
        registry.register("kubelet_image_manager_ensure_image_requests", help, self.requests.clone());
        let help = "Duration in seconds to pull an image";
        registry.register("kubelet_image_pull_duration_seconds", help, self.pull_duration.clone());
        let help =
            "Counter for how many times kubelet checked whether credentials need to be re-verified to access an image";
        registry.register("kubelet_imagemanager_image_mustpull_checks", help, self.checks.clone());
        let on_disk = [
            ("pullintents", "ImagePullIntents", &self.intents),
            ("pulledrecords", "ImagePulledRecords", &self.records),
        ];
        for (name, what, count) in on_disk {
            let help = format!("Number of {what} stored on disk");
            registry.register(format!("kubelet_imagemanager_ondisk_{name}"), help, count.clone());
        }
        self.register_collection(registry);
        self.providers.register(registry);
    }

    fn register_collection(&self, registry: &mut Registry) {
        let help = "Total number of images garbage collected by the kubelet, whether through disk usage or image age";
        registry.register("kubelet_image_garbage_collected", help, self.collected.clone());
        let help = "Bytes that garbage collection of images freed on disk";
        registry.register("imagevol_image_gc_freed_bytes", help, self.freed_bytes.clone());
        let help = "Cycles of garbage collection of images that failed or freed too little";
        registry.register("imagevol_image_gc_failures", help, self.failed_cycles.clone());
    }

    /// Counts a request by what was found out about it.
    pub(crate) fn requested(&self, policy: PullPolicy, facts: Facts) {
        let labels = RequestLabels {
            pull_policy: policy,
            present_locally: facts.present_locally(),
            pull_required: facts.pull_required(policy),
        };
        self.requests.get_or_create(&labels).inc();
    }

    /// Counts a successful pull of `size` bytes, with its waiting.
    pub(crate) fn pulled(&self, size: u64, took: Duration) {
        let labels = SizeLabels { image_size_in_bytes: size_label(size) };
        self.pull_duration.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Counts a check of a present image.
    pub(crate) fn checked(&self, result: CheckResult) {
        self.checks.get_or_create(&CheckLabels { result }).inc();
    }

    /// Counts images that went, and their bytes.
    pub(crate) fn collected(&self, reason: GcReason, collection: &Collection) {
        let labels = CollectedLabels { reason: upstream(reason) };
        self.collected.get_or_create(&labels).inc_by(u64::try_from(collection.gone.len()).unwrap_or(u64::MAX));
        self.freed_bytes.get_or_create(&labels).inc_by(collection.freed_bytes());
    }

    /// Counts a cycle of garbage collection that failed.
    pub(crate) fn collection_failed(&self) {
        self.failed_cycles.inc();
    }

    /// Shows how many intents are on disk.
    pub(crate) fn intents_on_disk(&self, count: usize) {
        self.intents.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Shows how many pulled records are on disk.
    pub(crate) fn records_on_disk(&self, count: usize) {
        self.records.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

/// There before the first image goes: what is not there has no rate.
fn from_zero() -> Family<CollectedLabels, Counter> {
    let family = Family::default();
    for reason in [GcReason::Age, GcReason::Space, GcReason::Admission] {
        drop(family.get_or_create(&CollectedLabels { reason }));
    }
    family
}

/// Upstream knows two reasons, and counts what goes without a target as gone for space (`DeleteUnusedImages`). It removes nothing to
/// make room for a pull: that reason is ours.
fn upstream(reason: GcReason) -> GcReason {
    match reason {
        GcReason::Age => GcReason::Age,
        GcReason::Space | GcReason::Unused => GcReason::Space,
        GcReason::Admission => GcReason::Admission,
    }
}

fn size_label(size: u64) -> &'static str {
    SIZE_BUCKETS.iter().rfind(|(more_than, _)| size > *more_than).map_or(SIZE_UNKNOWN, |(_, label)| label)
}

impl EncodeLabelValue for PullPolicy {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(&self.as_str().to_ascii_lowercase())
    }
}

impl EncodeLabelValue for Known {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(self.as_str())
    }
}

impl EncodeLabelValue for GcReason {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(self.as_str())
    }
}

impl EncodeLabelValue for CheckResult {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::policy::Outcome;

    #[rstest]
    #[case(0, "N/A")]
    #[case(1, "0-10MB")]
    #[case(10 << 20, "0-10MB")]
    #[case((10 << 20) + 1, "10MB-100MB")]
    #[case(2 << 30, "1GB-5GB")]
    #[case(u64::MAX, "GT100GB")]
    fn sizes_have_upstreams_labels(#[case] size: u64, #[case] label: &str) {
        assert_eq!(size_label(size), label);
    }

    #[test]
    fn has_upstreams_names() {
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        metrics.requested(PullPolicy::IfNotPresent, Facts::of(Outcome::Failed));
        metrics.pulled(797, Duration::from_secs(2));
        metrics.checked(CheckResult::MustAuthenticate);
        metrics.intents_on_disk(1);
        metrics.records_on_disk(2);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            r#"kubelet_image_manager_ensure_image_requests_total{pull_policy="ifnotpresent",present_locally="unknown",pull_required="unknown"} 1"#,
            r#"kubelet_image_pull_duration_seconds_bucket{le="5.0",image_size_in_bytes="0-10MB"} 1"#,
            r#"kubelet_image_pull_duration_seconds_bucket{le="1.0",image_size_in_bytes="0-10MB"} 0"#,
            r#"kubelet_imagemanager_image_mustpull_checks_total{result="mustAuthenticate"} 1"#,
            "kubelet_imagemanager_ondisk_pullintents 1",
            "kubelet_imagemanager_ondisk_pulledrecords 2",
        ] {
            assert!(text.lines().any(|each| each == line), "{line}\n{text}");
        }
    }
}
