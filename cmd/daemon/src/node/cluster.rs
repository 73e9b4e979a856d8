//! The node as part of a cluster: pods of the API server in, what they want to the volume manager, the CSI driver for the kubelet.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use imagevol_api::config::{CsiConfiguration, ImagevolConfiguration, KubernetesConfiguration};
use imagevol_api::corev1::Pod;
use imagevol_api::names::PodUid;
use imagevol_base::Supervisor;
use imagevol_controlplane::ControlPlane;
use imagevol_controlplane::apiserver::{
    Access, ApiServer, ClusterPullSecrets, ManifestPullSecrets, NodePods, watch_pods,
};
use imagevol_images::PullSecrets;
use imagevol_volumemanager::Volumes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The API server, and what it says of this node.
#[derive(Clone)]
pub(crate) struct Cluster {
    settings: KubernetesConfiguration,
    server: ApiServer,
    pods: watch::Receiver<Arc<NodePods>>,
}

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
        Ok(Some(Self { settings, server, pods }))
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
    fn pod(&self, uid: &PodUid) -> Option<Arc<Pod>> {
        self.pods.borrow().pods.get(uid).cloned()
    }

    /// Tells the volume manager which volumes will be asked for, and which pods need none any more.
    pub(super) async fn follow(mut self, volumes: Volumes, cancel: CancellationToken) {
        loop {
            let pods = Arc::clone(&self.pods.borrow_and_update());
            volumes.forsake(pods.over());
            if pods.synced {
                volumes.expect(self.expected(&pods));
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = self.pods.changed() => if changed.is_err() { return },
            }
        }
    }

    /// A volume with a secret of its own waits for the kubelet, which brings it.
    fn expected(&self, pods: &NodePods) -> BTreeMap<imagevol_base::Target, imagevol_volumemanager::VolumeRequest> {
        let living = pods.living().filter(|_| self.settings.prefetch).map(|(_, pod)| pod);
        imagevol_csi::expected(living, &|_, _| None)
    }

    /// Why this node does not hear of its pods; `None` if it does.
    pub(super) fn not_ready(&self) -> Option<String> {
        (!self.pods.borrow().synced).then(|| "the pods of this node have not been listed yet".to_owned())
    }
}

/// Serves the CSI driver and registers it with the kubelet.
pub(super) async fn start_csi(
    config: &ImagevolConfiguration,
    node_name: &str,
    volumes: Volumes,
    cluster: Option<Cluster>,
    supervisor: &Supervisor,
) -> anyhow::Result<()> {
    let Some(CsiConfiguration { publish_timeout, .. }) = config.csi.clone() else { return Ok(()) };
    let (Some(endpoint), Some(registration_dir)) = (config.csi_endpoint(), config.csi_registration_dir()) else {
        return Ok(());
    };
    let parts = imagevol_csi::Parts {
        root_dir: config.root_dir(),
        endpoint,
        registration_dir,
        publish_timeout: publish_timeout.into(),
        node_id: node_name.to_owned(),
        version: env!("CARGO_PKG_VERSION"),
        volumes: Arc::new(volumes),
        pods: Arc::new(move |uid| cluster.as_ref().and_then(|cluster| cluster.pod(uid))),
        ready: watch::channel(true).1,
    };
    imagevol_csi::start(parts, supervisor).await.context("CSI driver")
}
