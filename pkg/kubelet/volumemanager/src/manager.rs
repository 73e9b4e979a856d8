//! The loop: observe, plan, execute. One task owns the state; operations are tasks of their own that report back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use imagevol_api::core::{container_ref, pod_ref};
use imagevol_api::corev1::{ObjectReference, Pod};
use imagevol_base::volumes::{VolumeReports, VolumeState};
use imagevol_base::{EventKind, EventRecorder, KeyedBackoff, PodSet, Supervisor};
use imagevol_cri::{ImageReferences, Progress};
use imagevol_volume::sub_path::first_container_of;
use imagevol_volume::{Host, IMAGE_PLUGIN, Mounted, PluginManager, SetUp, Spec, VolumeError};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::outcome::{self, About, Retry};
use crate::plan::{Action, plan};
use crate::reconstruct::reconstruct;
use crate::state::{ActualStateOfWorld, DesiredStateOfWorld, Have, Key, Operation, Operations, Wanted};

/// Back-off of mounts that the node fails (nestedpendingoperations: 500 ms, doubling, at most 2 min 2 s).
const MOUNT_BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(122));
/// A look at the world without a reason: what changes behind our back is noticed at this pace, nothing else waits for it.
const RESYNC: Duration = Duration::from_secs(60);

/// What the manager is built from.
#[derive(Clone)]
pub struct Parts {
    /// Who mounts.
    pub plugins: PluginManager,
    /// Pods' directories.
    pub host: Host,
    /// Rows of earlier runs.
    pub references: Arc<dyn ImageReferences>,
    /// Who is told.
    pub events: Arc<dyn EventRecorder>,
    /// What is counted.
    pub metrics: Metrics,
}

/// Makes the mounted volumes match the pods.
pub struct VolumeManager {
    parts: Parts,
    want: DesiredStateOfWorld,
    have: ActualStateOfWorld,
    operations: Operations,
    running: BTreeMap<Key, CancellationToken>,
    shown: BTreeMap<Key, Shown>,
    backoff: KeyedBackoff<Key>,
    reports: watch::Sender<Option<Arc<VolumeReports>>>,
}

/// What is told of a volume.
struct Shown {
    state: VolumeState,
    mounted: Option<Mounted>,
    failing_since: Option<Instant>,
}

/// The end of an operation.
struct Ended {
    key: Key,
    result: Outcome,
}

enum Outcome {
    Mount { result: Result<Mounted, VolumeError>, bytes: u64 },
    Unmount(Result<(), VolumeError>),
    Cancelled,
}

// === impl VolumeManager ===

impl VolumeManager {
    /// A manager that knows nothing yet, and where its reports appear: `None` until every source of pods has been read.
    pub fn new(parts: Parts) -> (Self, watch::Receiver<Option<Arc<VolumeReports>>>) {
        let (reports, receiver) = watch::channel(None);
        let manager = Self {
            parts,
            want: DesiredStateOfWorld::default(),
            have: ActualStateOfWorld::default(),
            operations: Operations::default(),
            running: BTreeMap::new(),
            shown: BTreeMap::new(),
            backoff: KeyedBackoff::new(MOUNT_BACKOFF.0, MOUNT_BACKOFF.1),
            reports,
        };
        (manager, receiver)
    }

    /// Runs until the supervisor is cancelled or the pods' sender is gone. Mounts stay.
    pub async fn run(mut self, mut pods: watch::Receiver<Arc<PodSet>>, supervisor: Supervisor) {
        if !self.reconstruct(&supervisor).await {
            return;
        }
        let (ended, mut finished) = mpsc::unbounded_channel();
        self.observe(&pods.borrow_and_update().clone());
        loop {
            self.execute(&supervisor, &ended);
            self.report();
            let due = self.operations.next_due().unwrap_or_else(|| Instant::now() + RESYNC);
            tokio::select! {
                () = supervisor.cancelled() => return,
                changed = pods.changed() => match changed {
                    Ok(()) => self.observe(&pods.borrow_and_update().clone()),
                    Err(_) => return,
                },
                Some(end) = finished.recv() => self.finish(end),
                () = tokio::time::sleep_until(due) => self.forget_past(),
            }
        }
    }

    /// Reads what an earlier run left; until that is known nothing may be mounted or unmounted. `false` at shutdown.
    async fn reconstruct(&mut self, supervisor: &Supervisor) -> bool {
        loop {
            match reconstruct(&self.parts.host, &*self.parts.references).await {
                Ok(have) => {
                    self.have = have;
                    return true;
                }
                Err(error) => tracing::error!(%error, "cannot read what is mounted; trying again"),
            }
            tokio::select! {
                () = supervisor.cancelled() => return false,
                () = tokio::time::sleep(MOUNT_BACKOFF.1) => {}
            }
        }
    }

    fn observe(&mut self, pods: &PodSet) {
        self.want = DesiredStateOfWorld::of(pods);
        for (key, operation) in &self.operations.pending {
            let unwanted = *operation == Operation::Mount && !self.want.volumes.contains_key(key);
            if let (true, Some(token)) = (unwanted && self.want.all_sources_ready, self.running.get(key)) {
                token.cancel();
            }
        }
        let want = &self.want;
        self.operations.not_before.retain(|key, _| want.volumes.contains_key(key));
        self.shown.retain(|key, _| want.volumes.contains_key(key));
        self.backoff.retain(|key| want.volumes.contains_key(key));
        for key in want.volumes.keys().filter(|key| !self.shown.contains_key(*key)).cloned().collect::<Vec<_>>() {
            self.parts.metrics.requested.inc();
            let state = first_state(self.have.volumes.get(&key));
            self.shown.insert(key, Shown { state, mounted: None, failing_since: None });
        }
    }

    fn execute(&mut self, supervisor: &Supervisor, ended: &mpsc::UnboundedSender<Ended>) {
        for action in plan(&self.want, &self.have, &self.operations, Instant::now()) {
            let key = action.key().clone();
            let token = supervisor.token().child_token();
            self.running.insert(key.clone(), token.clone());
            match action {
                Action::Mount(_) | Action::Remount(_) => self.start_mount(&key, token, supervisor, ended.clone()),
                Action::Unmount(_) | Action::CleanOrphan(_) => self.start_unmount(&key, supervisor, ended.clone()),
            }
        }
    }

    fn start_mount(
        &mut self,
        key: &Key,
        cancel: CancellationToken,
        supervisor: &Supervisor,
        ended: mpsc::UnboundedSender<Ended>,
    ) {
        let Some(wanted) = self.want.volumes.get(key).cloned() else { return };
        let decided = match self.have.volumes.get(key) {
            Some(Have::Uncertain { decided }) => decided.clone(),
            Some(Have::Mounted(_)) | None => None,
        };
        // From here on something may be there, whatever becomes of the attempt.
        self.have.volumes.insert(key.clone(), Have::Uncertain { decided: decided.clone() });
        self.operations.pending.insert(key.clone(), Operation::Mount);
        if let Some(shown) = self.shown.get_mut(key)
            && shown.state == VolumeState::Waiting
        {
            shown.state = VolumeState::Pulling;
        }
        let (plugins, key) = (self.parts.plugins.clone(), key.clone());
        supervisor.spawn("mount volume", async move {
            let progress = Progress::default();
            let how = SetUp { decided, progress: progress.clone(), cancel };
            let result = match set_up(&plugins, &wanted, how).await {
                Err(VolumeError::Cancelled) => Outcome::Cancelled,
                result => Outcome::Mount { result, bytes: bytes_of(&progress) },
            };
            // The manager is gone only at shutdown.
            drop(ended.send(Ended { key, result }));
        });
    }

    fn start_unmount(&mut self, key: &Key, supervisor: &Supervisor, ended: mpsc::UnboundedSender<Ended>) {
        self.operations.pending.insert(key.clone(), Operation::Unmount);
        let (plugins, key) = (self.parts.plugins.clone(), key.clone());
        supervisor.spawn("unmount volume", async move {
            let result = tear_down(&plugins, &key).await;
            drop(ended.send(Ended { key, result: Outcome::Unmount(result) }));
        });
    }

    fn finish(&mut self, end: Ended) {
        let Ended { key, result } = end;
        self.operations.pending.remove(&key);
        self.running.remove(&key);
        match result {
            Outcome::Mount { result: Ok(mounted), .. } => self.mounted(key, mounted),
            Outcome::Mount { result: Err(error), bytes } => self.failed(key, &error, bytes),
            Outcome::Unmount(Ok(())) => {
                self.have.volumes.remove(&key);
            }
            Outcome::Unmount(Err(error)) => {
                tracing::error!(pod = %key.pod, volume = %key.volume, %error, "cannot unmount");
                let delay = self.backoff.next(key.clone(), Instant::now());
                self.operations.not_before.insert(key, Instant::now() + delay);
            }
            // What it left is cleaned as an orphan.
            Outcome::Cancelled => {}
        }
    }

    fn mounted(&mut self, key: Key, mounted: Mounted) {
        tracing::info!(pod = %key.pod, volume = %key.volume, image = %mounted.image, "volume mounted");
        self.parts.metrics.mounted.inc();
        self.have.volumes.insert(key.clone(), Have::Mounted(mounted.image.clone()));
        self.operations.not_before.remove(&key);
        self.tell_sub_path_errors(&key, &mounted);
        if let Some(shown) = self.shown.get_mut(&key) {
            shown.state = VolumeState::Mounted { image: mounted.image.digest().clone() };
            shown.mounted = Some(mounted);
            shown.failing_since = None;
        }
    }

    fn tell_sub_path_errors(&self, key: &Key, mounted: &Mounted) {
        let Some(wanted) = self.want.volumes.get(key) else { return };
        for ((container, _), error) in &mounted.sub_path_errors {
            let Some(about) = container_ref(&wanted.pod, container.as_str()) else { continue };
            self.parts.events.record(&about, EventKind::Warning, "Failed", format!("Error: {}", error.message));
        }
    }

    fn failed(&mut self, key: Key, error: &VolumeError, bytes: u64) {
        tracing::warn!(pod = %key.pod, volume = %key.volume, %error, "volume not mounted");
        let now = Instant::now();
        if error.as_image().is_none() {
            self.parts.metrics.failed.inc();
        }
        let delay = match outcome::retry(error) {
            Retry::In(delay) => delay,
            Retry::Backoff => self.backoff.next(key.clone(), now),
        };
        self.tell_failure(&key, error);
        if let Some(shown) = self.shown.get_mut(&key) {
            let since = shown.failing_since.filter(|_| bytes == 0).unwrap_or(now);
            shown.failing_since = Some(since);
            shown.state = VolumeState::Failed(outcome::failure(key.volume.as_str(), error, since));
        }
        self.operations.not_before.insert(key, now + delay);
    }

    fn tell_failure(&self, key: &Key, error: &VolumeError) {
        let Some(wanted) = self.want.volumes.get(key) else { return };
        let told = outcome::told(key.volume.as_str(), error);
        if let Some(about) = object_of(&wanted.pod, key, told.about) {
            self.parts.events.record(&about, told.kind, told.reason, told.message);
        }
    }

    fn forget_past(&mut self) {
        let now = Instant::now();
        self.operations.not_before.retain(|_, due| now < *due);
    }

    /// Nothing is said before every source of pods has been read: a volume that is mounted would seem to wait.
    fn report(&self) {
        if !self.want.all_sources_ready {
            return;
        }
        let mut reports = VolumeReports::default();
        for (key, shown) in &self.shown {
            let report = reports.entry(key.pod.clone()).or_default();
            report.volumes.insert(key.volume.clone(), shown.state.clone());
            for (place, error) in shown.mounted.iter().flat_map(|mounted| &mounted.sub_path_errors) {
                report.sub_path_errors.insert(place.clone(), error.message.clone());
            }
        }
        self.reports.send_if_modified(|current| {
            let changed = current.as_deref() != Some(&reports);
            if changed {
                *current = Some(Arc::new(reports));
            }
            changed
        });
    }
}

impl std::fmt::Debug for VolumeManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VolumeManager").field("want", &self.want.volumes.len()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("plugins", &self.plugins).field("host", &self.host).finish_non_exhaustive()
    }
}

fn object_of(pod: &Pod, key: &Key, about: About) -> Option<ObjectReference> {
    match about {
        About::Pod => Some(pod_ref(pod)),
        About::Container => first_container_of(pod, &key.volume).and_then(|container| container_ref(pod, container)),
    }
}

/// What was decided and mounted before a restart is mounted now.
fn first_state(have: Option<&Have>) -> VolumeState {
    match have {
        Some(Have::Mounted(image) | Have::Uncertain { decided: Some(image) }) => {
            VolumeState::Mounted { image: image.digest().clone() }
        }
        Some(Have::Uncertain { decided: None }) | None => VolumeState::Waiting,
    }
}

async fn set_up(plugins: &PluginManager, wanted: &Wanted, how: SetUp) -> Result<Mounted, VolumeError> {
    let spec = Spec { volume: Arc::clone(&wanted.volume) };
    let mounter = plugins.find_by_spec(&spec)?.new_mounter(&spec, Arc::clone(&wanted.pod))?;
    mounter.set_up(how).await
}

async fn tear_down(plugins: &PluginManager, key: &Key) -> Result<(), VolumeError> {
    plugins.find_by_name(IMAGE_PLUGIN)?.new_unmounter(&key.volume, &key.pod).tear_down().await
}

fn bytes_of(progress: &Progress) -> u64 {
    progress.snapshot().iter().map(|blob| blob.done).sum()
}
