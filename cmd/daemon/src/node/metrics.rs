//! One registry of metrics for the whole daemon.

use prometheus_client::collector::Collector;
use prometheus_client::registry::Registry;

/// Everything that is counted.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) images: imagevol_images::Metrics,
    pub(crate) operations: imagevol_images::OperationMetrics,
    pub(crate) volumes: imagevol_volumemanager::Metrics,
    pub(crate) prefetch: imagevol_prefetch::Metrics,
    pub(crate) csi: imagevol_csi::Metrics,
    registry: Registry,
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn new() -> Self {
        let (images, operations) = (imagevol_images::Metrics::default(), imagevol_images::OperationMetrics::default());
        let (volumes, prefetch) = (imagevol_volumemanager::Metrics::default(), imagevol_prefetch::Metrics::default());
        let csi = imagevol_csi::Metrics::default();
        let mut registry = Registry::default();
        images.register(&mut registry);
        operations.register(&mut registry);
        volumes.register(&mut registry);
        prefetch.register(&mut registry);
        csi.register(&mut registry);
        Self { images, operations, volumes, prefetch, csi, registry }
    }

    /// Shows besides what is counted elsewhere, or looked up when it is asked for.
    pub(crate) fn show(&mut self, other: impl Collector) {
        self.registry.register_collector(Box::new(other));
    }

    /// OpenMetrics text.
    pub(crate) fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
