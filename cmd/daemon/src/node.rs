//! The node: every part built once and wired, values flowing as the architecture draws them.

mod cluster;
mod gauges;
mod gc;
mod metrics;
mod needs;
mod parts;
mod prefetch;
mod scrub;
mod unfit;

use std::sync::Arc;

use anyhow::Context as _;
use imagevol_api::config::ImagevolConfiguration;
use imagevol_api::daemon::Version;
use imagevol_base::volumes::VolumeReports;
use imagevol_base::{EventRecorder, Supervisor};
use imagevol_controlplane::ControlPlane;
use imagevol_images::{EarlierPulls, ImageGc, ImageManager, InstrumentedImageService};
use imagevol_imageservice::EmbeddedImageService;
use imagevol_mount::{Backend, Interface, Kernel};
use imagevol_prefetch::Overview;
use imagevol_store::Store;
use imagevol_volume::{Host, ImagePlugin};
use imagevol_volumemanager::{VolumeManager, Volumes};
use tokio::sync::watch;

use cluster::Cluster;
use gauges::MountedGauge;
pub(crate) use metrics::Metrics;
use needs::Needs;
pub(crate) use unfit::Unfit;

/// The image service as the kubelet's code sees it: every operation is counted.
pub(crate) type Images = InstrumentedImageService<EmbeddedImageService>;

/// What handlers need. Clones are the same node.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) backend: Backend,
    pub(crate) config: Arc<ImagevolConfiguration>,
    pub(crate) control: ControlPlane,
    pub(crate) images: Arc<ImageManager<Images>>,
    pub(crate) gc: Arc<ImageGc<Images>>,
    pub(crate) service: Arc<EmbeddedImageService>,
    pub(crate) mounts: Arc<dyn Interface>,
    pub(crate) host: Host,
    reports: watch::Receiver<Option<Arc<VolumeReports>>>,
    pub(crate) volumes: Volumes,
    prefetch: watch::Receiver<Arc<Overview>>,
    cluster: Option<Cluster>,
    pub(crate) metrics: Arc<Metrics>,
    supervisor: Supervisor,
}

/// The node's name, and where its pods come from.
struct Joined {
    name: String,
    cluster: Option<Cluster>,
    control: ControlPlane,
}

// === impl Node ===

impl Node {
    /// Builds everything and starts its tasks; on a node of a cluster that cannot mount images, only what says so. The control plane has an owner of its own: it outlives the others, and keeps their last events.
    pub(crate) async fn start(
        config: &ImagevolConfiguration,
        supervisor: &Supervisor,
        scribe: &Supervisor,
    ) -> anyhow::Result<Result<Self, Unfit>> {
        let name = parts::node_name(config)?;
        let opened = parts::open(config.clone()).await?;
        let cluster = Cluster::join(config, &name, scribe).await?;
        let control = parts::control_plane(config, &name, cluster.as_ref(), opened.status, scribe).await?;
        let backend = match opened.backend {
            Ok(backend) => backend,
            Err(missing) => return unfit::stay(config, &name, missing, &control).map(Err),
        };
        let node = Self::build(config, Joined { name, cluster, control }, (opened.store, backend), supervisor).await?;
        Ok(Ok(node))
    }

    async fn build(
        config: &ImagevolConfiguration,
        Joined { name, cluster, control }: Joined,
        (store, backend): (Store, Backend),
        supervisor: &Supervisor,
    ) -> anyhow::Result<Self> {
        let mounts: Arc<dyn Interface> = Arc::new(Kernel);
        let (service, made_room) = parts::image_service(config, (store, backend), Arc::clone(&mounts), supervisor)?;
        let service = Arc::new(service);
        let events: Arc<dyn EventRecorder> = Arc::new(control.recorder());
        let secrets = match &cluster {
            Some(cluster) => cluster.pull_secrets(&control, supervisor),
            None => Arc::new(control.clone()),
        };
        let mut metrics = Metrics::new();
        if let Some(cluster) = &cluster {
            metrics.show(cluster.metrics(&control));
        }
        metrics.show(scrub::metrics(&service));
        let counted = Arc::new(InstrumentedImageService::new((*service).clone(), metrics.operations.clone()));
        let images = parts::image_manager(config, &counted, secrets, &events, &metrics)?;
        images.recover(EarlierPulls::Ended).await.context("pull records")?;
        let gc = gc::start(config, (&name, &images), made_room, supervisor)?;
        let prefetch = prefetch::start(config, (&service, &images), &metrics, supervisor).await;
        let host = Host::new(config.root_dir(), Arc::clone(&mounts));
        let plugin = ImagePlugin::new(Arc::clone(&images), counted, host.clone(), parts::exec(config));
        let (manager, reports) = parts::volume_manager(plugin, (&host, supervisor), &service, events, &metrics);
        metrics.show(MountedGauge { reports: reports.clone(), doors: manager.volumes() });
        metrics.show(gauges::store(service.store(), supervisor));
        let node = Self {
            name,
            backend,
            config: Arc::new(config.clone()),
            control,
            images,
            gc,
            service,
            mounts,
            host,
            reports,
            volumes: manager.volumes(),
            prefetch,
            cluster,
            metrics: Arc::new(metrics),
            supervisor: supervisor.clone(),
        };
        node.run(manager);
        cluster::start_csi(config, &node, supervisor).await?;
        Ok(node)
    }

    /// Pods to the volume manager, its reports back to the control plane.
    fn run(&self, manager: VolumeManager) {
        let child = self.supervisor.child("volumemanager");
        self.supervisor.spawn("volumemanager", manager.run(self.control.served_pods(), child));
        let (control, mut reports, token) = (self.control.clone(), self.reports.clone(), self.supervisor.token());
        self.supervisor.spawn("reports", async move {
            loop {
                if let Some(report) = &*reports.borrow_and_update() {
                    control.report(VolumeReports::clone(report));
                }
                tokio::select! {
                    () = token.cancelled() => return,
                    changed = reports.changed() => if changed.is_err() { return },
                }
            }
        });
        let (reports, prefetch, cluster) = (self.reports.clone(), self.prefetch.clone(), self.cluster.clone());
        let needs = Needs { reports, prefetch, cluster };
        self.supervisor.spawn("needs", needs.settle(Arc::clone(&self.service), self.supervisor.token()));
        if let Some(cluster) = self.cluster.clone() {
            let follow = cluster.follow(self.volumes.clone(), self.supervisor.token());
            self.supervisor.spawn("cluster", follow);
        }
        let expiry = parts::expire_unfinished(self.service.store().clone(), self.supervisor.token());
        self.supervisor.spawn("expiry", expiry);
        scrub::start(self);
    }

    /// What became of every pod's volumes.
    pub(crate) fn volume_reports(&self) -> Arc<VolumeReports> {
        self.reports.borrow().clone().unwrap_or_default()
    }

    /// How far prefetch lists are.
    pub(crate) fn prefetch(&self) -> Arc<Overview> {
        self.prefetch.borrow().clone()
    }

    /// Owner of tasks that outlive a request.
    pub(crate) fn tasks(&self) -> &Supervisor {
        &self.supervisor
    }

    /// Why the process should be restarted; empty if it should not.
    pub(crate) fn not_live(&self) -> Vec<String> {
        match self.supervisor.panics() {
            0 => Vec::new(),
            1 => vec!["1 task has panicked".to_owned()],
            panics => vec![format!("{panics} tasks have panicked")],
        }
    }

    /// Why the node cannot serve new pods; empty if it can.
    pub(crate) fn not_ready(&self) -> Vec<String> {
        let mut reasons = self.not_live();
        if !self.control.served_pods().borrow().all_sources_ready {
            reasons.push("the manifests have not been read yet".to_owned());
        }
        reasons.extend(self.cluster.as_ref().and_then(Cluster::not_ready));
        reasons
    }
}

/// What runs.
pub(crate) fn version() -> Version {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Version { version: env!("CARGO_PKG_VERSION").to_owned(), kernel: kernel.trim().to_owned() }
}
