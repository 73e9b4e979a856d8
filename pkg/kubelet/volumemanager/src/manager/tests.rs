//! The manager on paused time: over a plugin that is a table, and over the real plugin and image manager.

use std::sync::{Mutex, PoisonError};

use imagevol_api::corev1::ObjectReference;
use imagevol_base::volumes::VolumeState;
use imagevol_base::{EventKind, Holder};
use imagevol_cri::ImageId;
use imagevol_test_support::image_service::FakeImageService;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

mod cadence;
mod failures;
mod kubelet;
mod lives;
mod lost;
mod model;
mod plugin;

use plugin::{Do, FakePlugin};

const SECOND: Duration = Duration::from_secs(1);
const IMAGE: &str = "localhost:5000/data:1";

/// What outlives the daemon.
struct Disk {
    plugin: FakePlugin,
    service: FakeImageService,
    dir: TempDir,
}

/// A manager that runs, the sources of pods before it, and all that it says.
struct Node {
    events: Arc<Events>,
    metrics: Metrics,
    pods: watch::Sender<Arc<PodSet>>,
    mount_table: watch::Sender<()>,
    reports: watch::Receiver<Option<Arc<VolumeReports>>>,
    volumes: Volumes,
    supervisor: Supervisor,
}

/// `<reason> <message> @<object>`, with the second in which it came.
struct Events {
    began: Instant,
    told: Mutex<Vec<(u64, String)>>,
}

impl EventRecorder for Events {
    fn record(&self, about: &ObjectReference, _: EventKind, reason: &'static str, message: String) {
        let about = about.field_path.as_deref().unwrap_or("pod");
        let event = (self.began.elapsed().as_secs(), format!("{reason} {message} @{about}"));
        self.told.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}

impl Disk {
    fn new() -> Self {
        let (plugin, service) = (FakePlugin::default(), FakeImageService::default());
        service.offer(IMAGE, "content", 1);
        Self { plugin, service, dir: tempfile::tempdir().unwrap() }
    }

    fn host(&self) -> Host {
        Host::new(self.dir.path().to_owned(), Arc::new(self.service.mounts().clone()))
    }

    /// A manager over the fake plugin, without pods, whose sources have not been read.
    fn start(&self) -> Node {
        let events = Arc::new(Events { began: Instant::now(), told: Mutex::default() });
        self.start_with(PluginManager::new(vec![Arc::new(self.plugin.clone())]), events)
    }

    fn start_with(&self, plugins: PluginManager, events: Arc<Events>) -> Node {
        let (metrics, supervisor) = (Metrics::default(), Supervisor::new("test"));
        let (mount_table, changes) = watch::channel(());
        let (manager, reports) = VolumeManager::new(Parts {
            plugins,
            host: self.host(),
            references: Arc::new(self.service.clone()),
            events: Arc::<Events>::clone(&events),
            metrics: metrics.clone(),
            mount_table: changes,
        });
        let (pods, receiver) = watch::channel(Arc::default());
        let volumes = manager.volumes();
        supervisor.spawn("manager", manager.run(receiver, supervisor.child("manager")));
        Node { events, metrics, pods, mount_table, reports, volumes, supervisor }
    }

    /// What an earlier run left of a volume: a row bound to an image, and the mount.
    async fn leave(&self, pod: &str, volume: &str, reference: &str) -> ImageId {
        let image = self.service.preload(reference, "content", 1);
        let key = key(pod, volume);
        let holder = key.holder();
        self.service.hold(&holder, reference).await.unwrap();
        self.service.bind(&holder, &image).await.unwrap();
        self.leave_mount(pod, volume, "erofs");
        image
    }

    fn leave_mount(&self, pod: &str, volume: &str, fs_type: &str) {
        let key = key(pod, volume);
        let at = self.host().path(&key);
        std::fs::create_dir_all(&at).unwrap();
        self.service.mounts().put(fs_type, "/", &at);
        self.plugin.left(key);
    }
}

impl Node {
    /// The pods from now on; every source has been read.
    fn set(&self, pods: &[Pod]) {
        self.set_while(true, pods);
    }

    fn set_while(&self, all_sources_ready: bool, pods: &[Pod]) {
        let pods = pods.iter().map(|pod| (pod.metadata.uid.clone().unwrap().parse().unwrap(), Arc::new(pod.clone())));
        self.pods.send_replace(Arc::new(PodSet { pods: pods.collect(), all_sources_ready }));
    }

    /// Lets everything happen that needs no time to pass.
    async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }

    async fn after(&self, seconds: u64) {
        tokio::time::sleep(SECOND * u32::try_from(seconds).unwrap()).await;
    }

    /// `Mounted`, `Pulling`, `Waiting` or the reason of the failure; `-` if nothing is reported.
    fn state(&self, pod: &str, volume: &str) -> &'static str {
        let (key, reports) = (key(pod, volume), self.reports.borrow());
        let state = reports.as_ref().and_then(|reports| reports.get(&key.pod)?.volumes.get(&key.volume));
        match state {
            None => "-",
            Some(VolumeState::Waiting) => "Waiting",
            Some(VolumeState::Pulling) => "Pulling",
            Some(VolumeState::Mounted { .. }) => "Mounted",
            Some(VolumeState::Failed(failure)) => failure.reason,
        }
    }

    fn counted(&self) -> [u64; 3] {
        let Metrics { requested, mounted, failed } = &self.metrics;
        [requested.get(), mounted.get(), failed.get()]
    }

    /// As a kill: nothing is cleaned up.
    async fn stop(self) {
        assert!(self.supervisor.shut_down(SECOND * 3600).await);
    }
}

impl Events {
    fn take(&self) -> Vec<(u64, String)> {
        std::mem::take(&mut self.told.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn key(pod: &str, volume: &str) -> Key {
    Key::of_pod(pod.parse().unwrap(), volume.parse().unwrap())
}

/// A pod with these image volumes, all mounted by the container `c`.
fn pod(uid: &str, volumes: &[&str]) -> Pod {
    let images: Vec<_> = volumes.iter().map(|name| (*name, IMAGE)).collect();
    pod_of(uid, &images, "IfNotPresent")
}

fn pod_of(uid: &str, volumes: &[(&str, &str)], policy: &str) -> Pod {
    let volume =
        |(name, image): &(&str, &str)| json!({"name": name, "image": {"reference": image, "pullPolicy": policy}});
    let mount = |(name, _): &(&str, &str)| json!({"name": name, "mountPath": format!("/{name}")});
    let (volumes, mounts): (Vec<Value>, Vec<Value>) =
        (volumes.iter().map(volume).collect(), volumes.iter().map(mount).collect());
    serde_json::from_value(json!({
        "metadata": {"name": uid, "namespace": "default", "uid": uid},
        "spec": {"volumes": volumes, "containers": [{"name": "c", "volumeMounts": mounts}]},
    }))
    .unwrap()
}
