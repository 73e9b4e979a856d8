//! The scrub, and telling people of what it, a mount or a repair has found corrupt.

use std::collections::BTreeSet;
use std::sync::Arc;

use imagevol_api::core::pod_ref;
use imagevol_api::corev1::Pod;
use imagevol_api::oci::Digest;
use imagevol_base::{EventKind, EventRecorder as _, blocking};
use imagevol_controlplane::events::node_ref;
use imagevol_imageservice::{EmbeddedImageService, Integrity, ScrubSettings};
use imagevol_store::{Part, Quarantined, Remedy, StaleImage};
use imagevol_volume::Key;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::sync::broadcast::error::RecvError;

use super::Node;

/// `reason` of the events on the node and on pods; a kubelet has none.
const REASON: &str = "ImageCorrupted";

/// Counters of what is stored.
#[derive(Debug)]
struct IntegrityMetrics(Integrity);

/// Starts what runs as long as the daemon.
pub(super) fn start(node: &Node) {
    let (token, told) = (node.supervisor.token(), tell(node.clone()));
    node.supervisor.spawn("corrupt content", async move {
        tokio::select! {
            () = token.cancelled() => {}
            () = told => {}
        }
    });
    let (interval, bytes) = (node.config.scrub.interval, node.config.scrub.max_bytes_per_second);
    let settings = ScrubSettings { interval: interval.into(), bytes_per_second: bytes.get() };
    if settings.interval.is_zero() {
        return;
    }
    let (token, service) = (node.supervisor.token(), Arc::clone(&node.service));
    node.supervisor.spawn("scrub", async move {
        // Cut off anywhere: the next start goes on where this was.
        tokio::select! {
            () = token.cancelled() => {}
            () = service.scrub(settings) => {}
        }
    });
}

/// What is counted.
pub(super) fn metrics(service: &EmbeddedImageService) -> impl Collector + use<> {
    IntegrityMetrics(service.integrity().clone())
}

async fn tell(node: Node) {
    let mut found = node.service.integrity().subscribe();
    loop {
        match found.recv().await {
            Ok(found) => node.tell_of(&found).await,
            Err(RecvError::Lagged(missed)) => tracing::warn!(missed, "no events tell of some corrupt content"),
            Err(RecvError::Closed) => return,
        }
    }
}

// === impl Node ===

impl Node {
    /// An event on the node, and one on each pod that has a volume mounted from what is corrupt.
    async fn tell_of(&self, found: &Quarantined) {
        let recorder = self.control.recorder();
        recorder.record(&node_ref(&self.name), EventKind::Warning, REASON, about_node(found));
        let host = self.host.clone();
        let mounted = blocking(move || host.mounted_volumes()).await.unwrap_or_else(|error| {
            tracing::warn!(error = error.with_causes(), "no events tell pods of corrupt content");
            BTreeSet::new()
        });
        for stale in &found.images {
            let volumes = stale.holders.iter().filter_map(|holder| Key::of_holder(holder.clone()));
            for key in volumes.filter(|key| mounted.contains(key)) {
                tracing::warn!(pod = %key.pod, volume = %key.volume, "a volume may show corrupt content");
                if let Some(pod) = self.pod_of(&key) {
                    recorder.record(&pod_ref(&pod), EventKind::Warning, REASON, about_pod(found, stale, &key));
                }
            }
        }
    }

    /// A pod that is known by name: an event about another finds nobody.
    fn pod_of(&self, key: &Key) -> Option<Arc<Pod>> {
        let served = self.control.served_pods().borrow().pods.get(&key.pod).cloned();
        let of_cluster = || self.cluster.as_ref().and_then(|cluster| cluster.pod(&key.pod));
        let of_door = || {
            let target = key.target()?;
            let (_, volume) = self.volumes.list().into_iter().find(|(known, _)| *known == target)?;
            Some(volume.pod)
        };
        served.or_else(of_cluster).or_else(of_door).filter(|pod| pod.metadata.name.is_some())
    }
}

/// What is corrupt, of which image.
fn what(part: &Part, image: &str) -> String {
    match part {
        Part::Content(_) => format!("{} {} of image {image}", part.kind(), part.digest()),
        Part::Image(_) => format!("the metadata of image {image}"),
    }
}

fn about_node(found: &Quarantined) -> String {
    let images: Vec<String> = found.images.iter().map(name_of).collect();
    let images = match images.as_slice() {
        [] => "that no pod uses".to_owned(),
        [one] => one.clone(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    };
    let remedy = match found.remedy {
        Remedy::Pull => "it is pulled again when it is wanted",
        Remedy::Rebuilt => "it was made again from its layers",
    };
    format!("On disk {} is corrupt and was set aside; {remedy}: {}", what(&found.part, &images), found.problem)
}

fn about_pod(found: &Quarantined, stale: &StaleImage, key: &Key) -> String {
    let what = what(&found.part, &name_of(stale));
    let volume = key.volume.as_str();
    format!(
        "Volume {volume:?} may show wrong content: on disk {what} is corrupt. It stays mounted; delete the pod to get a good copy"
    )
}

/// What people call an image: its tag, if it has one.
fn name_of(stale: &StaleImage) -> String {
    let digest: &Digest = &stale.image;
    let tag = stale.names.iter().find(|name| !name.contains('@'));
    tag.or_else(|| stale.names.first()).map_or_else(|| digest.to_string(), Clone::clone)
}

// === impl IntegrityMetrics ===

impl Collector for IntegrityMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let corrupt = self.0.corrupt();
        let help = "Content that was found corrupt on disk";
        let mut family = encoder.encode_descriptor("imagevol_corrupt_content", help, None, MetricType::Counter)?;
        for (kind, count) in [("blob", corrupt.blobs), ("layer", corrupt.layers), ("image", corrupt.images)] {
            ConstCounter::new(count).encode(family.encode_family(&[("kind", kind)])?)?;
        }
        let bytes = ConstCounter::new(self.0.scrubbed_bytes());
        let help = "Bytes that were read again and held against their digests";
        bytes.encode(encoder.encode_descriptor("imagevol_scrubbed_bytes", help, None, bytes.metric_type())?)?;
        let Some(at) = self.0.scrubbed_all_at() else { return Ok(()) };
        let (at, name) = (ConstGauge::new(at), "imagevol_scrub_last_complete_timestamp_seconds");
        let help = "When everything that is stored had been held against its digests last";
        at.encode(encoder.encode_descriptor(name, help, None, at.metric_type())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(names: &[&[&str]], remedy: Remedy) -> Quarantined {
        let digest: Digest = format!("sha256:{}", "a".repeat(64)).parse().unwrap();
        let stale = |names: &&[&str]| StaleImage {
            image: digest.clone(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            holders: Vec::new(),
        };
        let part = match remedy {
            Remedy::Pull => format!("layer/{digest}").parse().unwrap(),
            Remedy::Rebuilt => Part::Image(digest.clone()),
        };
        let images = names.iter().map(stale).collect();
        Quarantined { part, problem: "content is corrupt".to_owned(), images, remedy }
    }

    #[test]
    fn the_node_is_told_what_and_what_next() {
        let a = "a".repeat(64);
        let layer = found(&[&["r.io/a@sha256:1", "r.io/a:1"], &[]], Remedy::Pull);
        let text = format!(
            "On disk layer sha256:{a} of image r.io/a:1 and 1 more is corrupt and was set aside; it is pulled again when it is wanted: \
             content is corrupt"
        );
        assert_eq!(about_node(&layer), text);
        let text = "On disk the metadata of image r.io/a:1 is corrupt and was set aside; it was made again from its layers: content is \
                    corrupt";
        assert_eq!(about_node(&found(&[&["r.io/a:1"]], Remedy::Rebuilt)), text);
        assert!(about_node(&found(&[], Remedy::Pull)).contains("of image that no pod uses"));
    }

    #[test]
    fn a_pod_is_told_what_to_do() {
        let found = found(&[&["r.io/a:1"]], Remedy::Pull);
        let key = Key::of_pod("0b5a7bd0".parse().unwrap(), "models".parse().unwrap());
        let text = format!(
            "Volume \"models\" may show wrong content: on disk layer sha256:{} of image r.io/a:1 is corrupt. It stays mounted; delete the \
             pod to get a good copy",
            "a".repeat(64)
        );
        assert_eq!(about_pod(&found, &found.images[0], &key), text);
    }
}
