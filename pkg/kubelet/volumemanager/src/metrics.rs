//! The kubelet's three counters of image volumes (KEP-4639), counted truthfully: a failed mount is no success.

use imagevol_volume::Mounted;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// Counters of image volumes.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Volumes that pods asked for, each once.
    pub requested: Counter,
    /// Volumes that were mounted.
    pub mounted: Counter,
    /// Attempts whose image was there and whose mount failed, and sub paths that could not be mounted.
    pub failed: Counter,
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn count(&self, mounted: &Mounted) {
        self.mounted.inc();
        self.failed.inc_by(u64::try_from(mounted.sub_path_errors.len()).unwrap_or(u64::MAX));
    }

    /// Puts the counters into a registry. The encoder appends `_total`.
    pub fn register(&self, registry: &mut Registry) {
        let counters = [
            ("kubelet_image_volume_requested", "Number of requested image volumes", &self.requested),
            ("kubelet_image_volume_mounted_succeed", "Number of successful image volume mounts", &self.mounted),
            ("kubelet_image_volume_mounted_errors", "Number of failed image volume mounts", &self.failed),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
    }
}
