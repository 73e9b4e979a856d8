//! The kubelet's metrics of its plugins (Kubernetes, `pkg/credentialprovider/plugin/metrics.go`).

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Seconds (client_golang, `DefBuckets`).
const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Counters of plugins. Clones count into the same place.
#[derive(Debug, Clone)]
pub(crate) struct ProviderMetrics {
    errors: Family<PluginLabels, Counter>,
    duration: Family<PluginLabels, Histogram, fn() -> Histogram>,
    configs: Family<ConfigLabels, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PluginLabels {
    plugin_name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConfigLabels {
    hash: String,
}

// === impl ProviderMetrics ===

impl Default for ProviderMetrics {
    fn default() -> Self {
        Self {
            errors: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            configs: Family::default(),
        }
    }
}

impl ProviderMetrics {
    /// Shows the metrics in `registry`.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "kubelet_credential_provider_plugin_errors",
            "Number of errors from credential provider plugin",
            self.errors.clone(),
        );
        registry.register(
            "kubelet_credential_provider_plugin_duration",
            "Duration of execution in seconds for credential provider plugin",
            self.duration.clone(),
        );
        registry.register(
            "kubelet_credential_provider_config_info",
            "Information about the last applied credential provider configuration with hash as label",
            self.configs.clone(),
        );
    }

    /// Shows by its hash which configuration is in use.
    pub(super) fn configured(&self, hash: &str) {
        self.configs.get_or_create(&ConfigLabels { hash: hash.to_owned() }).set(1);
    }

    /// Counts a run of `plugin`, however it ended.
    pub(super) fn ran(&self, plugin: &str, took: Duration) {
        self.duration.get_or_create(&labels(plugin)).observe(took.as_secs_f64());
    }

    /// Counts a run of `plugin` that failed, or took too long.
    pub(super) fn failed(&self, plugin: &str) {
        self.errors.get_or_create(&labels(plugin)).inc();
    }
}

fn labels(plugin: &str) -> PluginLabels {
    PluginLabels { plugin_name: plugin.to_owned() }
}
