//! What is counted of lists.

use std::collections::BTreeMap;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::plan::Phase;

/// Gauges of lists. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    images: Family<PhaseLabels, Gauge>,
    problems: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    phase: PhaseLabel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelValue)]
enum PhaseLabel {
    Waiting,
    Pulling,
    Present,
    Failed,
    Ended,
}

const PHASES: [Phase; 5] = [Phase::Waiting, Phase::Pulling, Phase::Present, Phase::Failed, Phase::Ended];

// === impl Metrics ===

impl Metrics {
    /// Names them in a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("imagevol_prefetch_images", "Images of prefetch lists by phase", self.images.clone());
        let help = "Files of prefetch lists that cannot be used";
        registry.register("imagevol_prefetch_problems", help, self.problems.clone());
    }

    pub(crate) fn show(&self, phases: impl Iterator<Item = Phase>, problems: usize) {
        let mut counts: BTreeMap<_, i64> = PHASES.into_iter().map(|phase| (phase, 0)).collect();
        phases.for_each(|phase| *counts.entry(phase).or_default() += 1);
        for (phase, count) in counts {
            self.images.get_or_create(&PhaseLabels { phase: phase.into() }).set(count);
        }
        self.problems.set(i64::try_from(problems).unwrap_or(i64::MAX));
    }
}

impl From<Phase> for PhaseLabel {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Waiting => Self::Waiting,
            Phase::Pulling => Self::Pulling,
            Phase::Present => Self::Present,
            Phase::Failed => Self::Failed,
            Phase::Ended => Self::Ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_is_shown() {
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        metrics.show([Phase::Present, Phase::Present, Phase::Failed].into_iter(), 1);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "imagevol_prefetch_images{phase=\"Present\"} 2",
            "imagevol_prefetch_images{phase=\"Failed\"} 1",
            "imagevol_prefetch_images{phase=\"Ended\"} 0",
            "imagevol_prefetch_problems 1",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
