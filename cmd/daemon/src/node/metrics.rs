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
    registry: Registry,
}

// === impl Metrics ===

impl Metrics {
    /// `others` count what has to do with the API server, and with what is stored.
    pub(crate) fn new(others: impl IntoIterator<Item = Box<dyn Collector>>) -> Self {
        let (images, operations) = (imagevol_images::Metrics::default(), imagevol_images::OperationMetrics::default());
        let (volumes, prefetch) = (imagevol_volumemanager::Metrics::default(), imagevol_prefetch::Metrics::default());
        let mut registry = Registry::default();
        images.register(&mut registry);
        operations.register(&mut registry);
        volumes.register(&mut registry);
        prefetch.register(&mut registry);
        others.into_iter().for_each(|other| registry.register_collector(other));
        Self { images, operations, volumes, prefetch, registry }
    }

    /// OpenMetrics text.
    pub(crate) fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
