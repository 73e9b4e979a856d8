//! The node as part of a cluster: pods of the API server in, what they want to the volume manager, the CSI driver for the kubelet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use imagevol_api::config::{CsiConfiguration, ImagevolConfiguration, KubernetesConfiguration};
use imagevol_api::corev1::Pod;
use imagevol_api::names::PodUid;
use imagevol_base::Supervisor;
use imagevol_controlplane::ControlPlane;
use imagevol_controlplane::apiserver::{
    Access, ApiServer, ClusterPullSecrets, ManifestPullSecrets, NodePods, Posting, watch_pods,
};
use imagevol_images::PullSecrets;
use imagevol_volumemanager::Volumes;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Node;

/// The API server, and what it says of this node.
#[derive(Clone)]
pub(crate) struct Cluster {
    settings: KubernetesConfiguration,
    server: ApiServer,
    pods: watch::Receiver<Arc<NodePods>>,
    /// Whether rows keep what this node's pods will ask for.
    told: watch::Sender<bool>,
}

/// Counters of the API server.
#[derive(Debug)]
struct ApiServerMetrics {
    posting: Option<Posting>,
    pods: watch::Receiver<Arc<NodePods>>,
}

/// How often pods are looked at that nobody has told of: they matter to nobody but a row.
const LOOK: Duration = Duration::from_mins(1);

// === impl Cluster ===

impl Cluster {
    /// `None` if the configuration names no cluster. That the API server is away is no error.
    pub(super) async fn join(
        config: &ImagevolConfiguration,
        node_name: &str,
        supervisor: &Supervisor,
    ) -> anyhow::Result<Option<Self>> {
        let Some(settings) = config.kubernetes.clone() else { return Ok(None) };
        let access = Access::from(settings.kubeconfig.clone());
        let server = ApiServer::connect(access, supervisor).await.context("API server")?;
        let pods = watch_pods(&server, node_name, supervisor);
        Ok(Some(Self { settings, server, pods, told: watch::channel(false).0 }))
    }

    pub(super) fn server(&self) -> &ApiServer {
        &self.server
    }

    /// Where pods' pull secrets come from: the manifests, and the API server if that is granted.
    pub(super) fn pull_secrets(&self, control: &ControlPlane, supervisor: &Supervisor) -> Arc<dyn PullSecrets> {
        let manifests = Arc::new(control.clone());
        if self.settings.image_pull_secrets {
            Arc::new(ClusterPullSecrets::new(self.server.clone(), manifests, supervisor))
        } else {
            Arc::new(ManifestPullSecrets::new(manifests))
        }
    }

    /// A pod of this node, as the API server has it.
    pub(super) fn pod(&self, uid: &PodUid) -> Option<Arc<Pod>> {
        self.pods.borrow().pods.get(uid).cloned()
    }

    /// What is counted of the API server.
    pub(super) fn metrics(&self, control: &ControlPlane) -> impl Collector + use<> {
        ApiServerMetrics { posting: control.posting().cloned(), pods: self.pods.clone() }
    }

    /// Tells the volume manager which volumes will be asked for, and which pods need none any more.
    pub(super) async fn follow(mut self, volumes: Volumes, cancel: CancellationToken) {
        let (started, told) = (Instant::now(), self.told.clone());
        loop {
            let pods = Arc::clone(&self.pods.borrow_and_update());
            volumes.forsake(over(&pods, &volumes, started));
            if pods.synced {
                volumes.expect(self.expected(&pods));
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tell_once_kept(&told, &volumes), if pods.synced && !*told.borrow() => {}
                () = tokio::time::sleep(LOOK) => {}
                changed = self.pods.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Waits until rows keep the images of this node's pods, as far as they are fetched before a kubelet asks for them: what others
    /// have brought, only their mounts and rows tell of.
    pub(super) async fn told(&self) {
        if self.settings.prefetch {
            // Never an error: the sender is ours.
            drop(self.told.subscribe().wait_for(|told| *told).await);
        }
    }

    fn expected(&self, pods: &NodePods) -> BTreeMap<imagevol_base::Target, imagevol_volumemanager::VolumeRequest> {
        let living = pods.living().filter(|_| self.settings.prefetch).map(|(_, pod)| pod);
        imagevol_csi::expected(living)
    }

    /// Why this node does not hear of its pods; `None` if it does.
    pub(super) fn not_ready(&self) -> Option<String> {
        (!self.pods.borrow().synced).then(|| "the pods of this node have not been listed yet".to_owned())
    }
}

async fn tell_once_kept(told: &watch::Sender<bool>, volumes: &Volumes) {
    volumes.settle().await;
    told.send_replace(true);
}

/// The pods for which nothing is to be mounted any more; also those that went while no daemon ran, which no watch will tell of.
fn over(pods: &NodePods, volumes: &Volumes, started: Instant) -> BTreeSet<PodUid> {
    let (mut over, now) = (pods.over(), Instant::now());
    let known = volumes.list().into_iter().map(|(target, _)| target.pod);
    over.extend(known.filter(|pod| pods.is_over(pod, started, now)));
    over
}

// === impl ApiServerMetrics ===

impl Collector for ApiServerMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut counter = |name: &str, help: &str, value: u64| {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)
        };
        if let Some(posting) = &self.posting {
            counter("imagevol_apiserver_events_posted", "Events that the API server has taken", posting.posted())?;
            counter("imagevol_apiserver_events_dropped", "Events that never get to the API server", posting.dropped())?;
        }
        let stale = self.pods.borrow().stale_since.map_or(0.0, |since| since.elapsed().as_secs_f64());
        let stale = ConstGauge::new(stale);
        let help = "How long the watch of this node's pods has been broken";
        let name = "imagevol_apiserver_watch_stale_seconds";
        stale.encode(encoder.encode_descriptor(name, help, None, stale.metric_type())?)
    }
}

/// Serves the CSI driver and registers it with the kubelet.
pub(super) async fn start_csi(
    config: &ImagevolConfiguration,
    node: &Node,
    supervisor: &Supervisor,
) -> anyhow::Result<()> {
    let Some(CsiConfiguration { publish_timeout, .. }) = config.csi.clone() else { return Ok(()) };
    let (Some(endpoint), Some(registration_dir)) = (config.csi_endpoint(), config.csi_registration_dir()) else {
        return Ok(());
    };
    let cluster = node.cluster.clone();
    let parts = imagevol_csi::Parts {
        root_dir: config.root_dir(),
        endpoint,
        registration_dir,
        publish_timeout: publish_timeout.into(),
        node_id: node.name.clone(),
        version: env!("CARGO_PKG_VERSION"),
        volumes: Arc::new(node.volumes.clone()),
        pods: Arc::new(move |uid| cluster.as_ref().and_then(|cluster| cluster.pod(uid))),
        metrics: node.metrics.csi.clone(),
    };
    imagevol_csi::start(parts, supervisor).await.context("CSI driver")
}
