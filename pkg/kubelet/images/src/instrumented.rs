//! An image service whose operations are counted and timed (Kubernetes, `pkg/kubelet/kuberuntime/instrumented_services.go`).

use std::time::Duration;

use async_trait::async_trait;
use imagevol_api::auth::Credential;
use imagevol_base::Holder;
use imagevol_base::collection::{Collection, Execution, Turn, Turns, Wish};
use imagevol_cri::{
    FilesystemUsage, Image, ImageCollector, ImageId, ImageMounts, ImageReferences, ImageService, ImageSpec,
    MountRequest, Progress, Result,
};
use imagevol_mount::DetachedMount;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tokio::time::Instant;

/// Counters of an image service's operations. Clones count into the same place.
#[derive(Debug, Clone)]
pub struct OperationMetrics {
    started: Family<Labels, Counter>,
    failed: Family<Labels, Counter>,
    duration: Family<Labels, Histogram, fn() -> Histogram>,
}

/// Counts and times what it passes on.
#[derive(Debug, Clone)]
pub struct InstrumentedImageService<S> {
    inner: S,
    metrics: OperationMetrics,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    operation_type: &'static str,
}

// === impl OperationMetrics ===

impl Default for OperationMetrics {
    fn default() -> Self {
        // From 5 ms, times 2.5, 14 buckets (pkg/kubelet/metrics/metrics.go, `RuntimeOperationsDuration`).
        let histogram = || Histogram::new(exponential_buckets(0.005, 2.5, 14));
        Self {
            started: Family::default(),
            failed: Family::default(),
            duration: Family::new_with_constructor(histogram),
        }
    }
}

impl OperationMetrics {
    /// Shows the metrics in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let name = "kubelet_runtime_operations";
        registry.register(name, "Cumulative number of runtime operations by operation type", self.started.clone());
        registry.register(
            format!("{name}_errors"),
            "Cumulative number of runtime operation errors by operation type",
            self.failed.clone(),
        );
        registry.register(
            format!("{name}_duration_seconds"),
            "Duration in seconds of runtime operations, broken down by operation type",
            self.duration.clone(),
        );
    }

    async fn measure<T>(&self, operation_type: &'static str, operation: impl Future<Output = Result<T>>) -> Result<T> {
        let labels = Labels { operation_type };
        self.started.get_or_create(&labels).inc();
        let begun = Instant::now();
        let result = operation.await;
        self.end(&labels, begun.elapsed(), result.is_err());
        result
    }

    fn end(&self, labels: &Labels, took: Duration, failed: bool) {
        self.duration.get_or_create(labels).observe(took.as_secs_f64());
        if failed {
            self.failed.get_or_create(labels).inc();
        }
    }
}

// === impl InstrumentedImageService ===

impl<S> InstrumentedImageService<S> {
    /// Counts the operations of `inner`.
    pub fn new(inner: S, metrics: OperationMetrics) -> Self {
        Self { inner, metrics }
    }
}

#[async_trait]
impl<S: ImageService> ImageService for InstrumentedImageService<S> {
    async fn list(&self) -> Result<Vec<Image>> {
        self.metrics.measure("list_images", self.inner.list()).await
    }

    async fn status(&self, image: &ImageSpec) -> Result<Option<Image>> {
        self.metrics.measure("image_status", self.inner.status(image)).await
    }

    async fn pull(
        &self,
        image: &ImageSpec,
        credential: &Credential,
        holder: &Holder,
        progress: &Progress,
    ) -> Result<ImageId> {
        self.metrics.measure("pull_image", self.inner.pull(image, credential, holder, progress)).await
    }

    async fn remove(&self, image: &ImageSpec) -> Result<()> {
        self.metrics.measure("remove_image", self.inner.remove(image)).await
    }

    async fn fs_info(&self) -> Result<FilesystemUsage> {
        self.metrics.measure("image_fs_info", self.inner.fs_info()).await
    }
}

/// What the CRI lacks has no operation type upstream, and is not counted.
#[async_trait]
impl<S: ImageReferences> ImageReferences for InstrumentedImageService<S> {
    async fn hold(&self, holder: &Holder, reference: &str) -> Result<()> {
        self.inner.hold(holder, reference).await
    }

    async fn bind(&self, holder: &Holder, image: &ImageId) -> Result<Option<ImageId>> {
        self.inner.bind(holder, image).await
    }

    async fn release(&self, holder: &Holder) -> Result<()> {
        self.inner.release(holder).await
    }

    async fn holders(&self) -> Result<Vec<(Holder, String, Option<ImageId>)>> {
        self.inner.holders().await
    }
}

#[async_trait]
impl<S: ImageMounts> ImageMounts for InstrumentedImageService<S> {
    async fn mount(&self, request: MountRequest<'_>) -> Result<DetachedMount> {
        self.inner.mount(request).await
    }
}

#[async_trait]
impl<S: ImageCollector> ImageCollector for InstrumentedImageService<S> {
    fn turns(&self) -> &Turns {
        self.inner.turns()
    }

    async fn collect(&self, turn: &Turn, wish: Wish, execution: Execution) -> Result<Collection> {
        self.inner.collect(turn, wish, execution).await
    }
}

#[cfg(test)]
mod tests {
    use imagevol_test_support::image_service::FakeImageService;

    use super::*;

    #[tokio::test]
    async fn counts_and_times_what_it_passes_on() {
        let metrics = OperationMetrics::default();
        let service = InstrumentedImageService::new(FakeImageService::default(), metrics.clone());
        let absent = ImageSpec { image: "r.io/a:1".to_owned(), ..ImageSpec::default() };
        assert_eq!(service.status(&absent).await, Ok(None));
        let holder = Holder::Command { id: 1 };
        assert!(service.pull(&absent, &Credential::Anonymous, &holder, &Progress::default()).await.is_err());
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            r#"kubelet_runtime_operations_total{operation_type="image_status"} 1"#,
            r#"kubelet_runtime_operations_total{operation_type="pull_image"} 1"#,
            r#"kubelet_runtime_operations_errors_total{operation_type="pull_image"} 1"#,
            r#"kubelet_runtime_operations_duration_seconds_count{operation_type="image_status"} 1"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains(r#"errors_total{operation_type="image_status"}"#), "{text}");
    }
}
