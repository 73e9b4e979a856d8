//! The loop: observe, plan, execute. One task owns the state; operations are tasks of their own that report back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use imagevol_api::core::pod_ref;
use imagevol_api::corev1::Pod;
use imagevol_base::progress::{self, PULL_PROGRESS, ProgressThrottle};
use imagevol_base::volumes::VolumeReports;
use imagevol_base::{EventKind, EventRecorder, KeyedBackoff, PodSet, Supervisor};
use imagevol_cri::{ImageReferences, Progress};
use imagevol_volume::{Door, Goal, Host, Key, Mounted, PluginManager, SetUp, SetUpFailed, VolumeError};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::doors::{DoorReport, DoorReports, DoorState, Taken, Volumes};
use crate::lost;
use crate::metrics::Metrics;
use crate::operation::{self, Ended, Outcome};
use crate::outcome::{self, Retry};
use crate::plan::{Action, plan};
use crate::reconstruct::reconstruct;
use crate::shown::{Shown, reports_of};
use crate::state::{ActualStateOfWorld, Decided, DesiredStateOfWorld, Have, Operation, Operations, Wanted};

mod looks;

use looks::Looks;

/// Back-off of mounts and unmounts that the node fails (nestedpendingoperations: 500 ms, doubling, at most 2 min 2 s).
const MOUNT_BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(122));
/// How soon the node is asked again what is mounted, if it did not say (the kubelet's reconciler waits 100 ms and logs each time; this
/// logs each time as well).
const RECONSTRUCT_AGAIN: Duration = Duration::from_secs(5);
/// How often a pull that failed before is looked at: once bytes come in, it counts as pulling again. Short against the shortest
/// `pullDeadline` that makes sense.
const PROGRESS_LOOK: Duration = Duration::from_secs(1);
/// How often pulls are looked at for events about their progress, which come 30 s apart at least.
const PROGRESS_EVENTS: Duration = Duration::from_secs(5);

/// What the manager is built from.
#[derive(Clone)]
pub struct Parts {
    /// Who mounts.
    pub plugins: PluginManager,
    /// Pods' directories.
    pub host: Host,
    /// Rows: of earlier runs, and of volumes that are wanted now.
    pub references: Arc<dyn ImageReferences>,
    /// Who is told.
    pub events: Arc<dyn EventRecorder>,
    /// What is counted.
    pub metrics: Metrics,
    /// Says that the mount table has changed.
    pub mount_table: watch::Receiver<()>,
}

/// Makes the mounted volumes match the pods.
pub struct VolumeManager {
    parts: Parts,
    want: DesiredStateOfWorld,
    have: ActualStateOfWorld,
    operations: Operations,
    /// The mounts under way.
    mounting: BTreeMap<Key, Mounting>,
    shown: BTreeMap<Key, Shown>,
    /// Pods of volumes that nobody wants any more and that are not gone yet: whom to tell.
    left: BTreeMap<Key, Arc<Pod>>,
    backoff: KeyedBackoff<Key>,
    reports: watch::Sender<Option<Arc<VolumeReports>>>,
    doors: Volumes,
    /// The version of the doors' wishes that `want` holds.
    seen: u64,
    /// When to tell how far pulls have come.
    throttle: ProgressThrottle<Key>,
    /// Counts the attempts that have ended, and which was the last of each volume.
    attempts: u64,
    ended: BTreeMap<Key, u64>,
    /// Why volumes that nobody wants are still there.
    stuck: BTreeMap<Key, String>,
    looks: Looks,
}

/// A mount under way.
struct Mounting {
    wanted: Wanted,
    progress: Progress,
    /// Cancelled once nobody wants its result.
    cancel: CancellationToken,
}

/// What operations need.
struct Tasks {
    supervisor: Supervisor,
    ended: mpsc::UnboundedSender<Ended>,
}

// === impl VolumeManager ===

impl VolumeManager {
    /// A manager that knows nothing yet, and where its reports appear: `None` until every source of pods has been read, and a row
    /// of each of their volumes was written or could not be.
    pub fn new(parts: Parts) -> (Self, watch::Receiver<Option<Arc<VolumeReports>>>) {
        let (reports, receiver) = watch::channel(None);
        let manager = Self {
            parts,
            want: DesiredStateOfWorld::default(),
            have: ActualStateOfWorld::default(),
            operations: Operations::default(),
            mounting: BTreeMap::new(),
            shown: BTreeMap::new(),
            left: BTreeMap::new(),
            backoff: KeyedBackoff::new(MOUNT_BACKOFF.0, MOUNT_BACKOFF.1),
            reports,
            doors: Volumes::new(),
            seen: 0,
            throttle: ProgressThrottle::new(),
            attempts: 0,
            ended: BTreeMap::new(),
            stuck: BTreeMap::new(),
            looks: Looks::default(),
        };
        (manager, receiver)
    }

    /// Where doors say what they want.
    pub fn volumes(&self) -> Volumes {
        self.doors.clone()
    }

    /// Runs until the supervisor is cancelled or the pods' sender is gone. Mounts stay.
    pub async fn run(mut self, mut pods: watch::Receiver<Arc<PodSet>>, supervisor: Supervisor) {
        if !self.reconstruct(&supervisor).await {
            return;
        }
        let (ended, mut finished) = mpsc::unbounded_channel();
        let tasks = Tasks { supervisor, ended };
        let (mut wishes, mut mount_table) = (self.doors.changes(), self.parts.mount_table.clone());
        self.observe(&pods.borrow_and_update().clone());
        loop {
            self.execute(&tasks).await;
            self.look_at_mounts();
            self.look_at_progress();
            self.tell_progress();
            self.report();
            let due = self.next_due();
            tokio::select! {
                () = tasks.supervisor.cancelled() => return,
                changed = pods.changed() => match changed {
                    Ok(()) => self.observe(&pods.borrow_and_update().clone()),
                    Err(_) => return,
                },
                // Never an error: the sender is ours.
                Ok(()) = wishes.changed() => self.observe(&pods.borrow().clone()),
                // An error if nobody tells of changes any more.
                Ok(()) = mount_table.changed() => self.looks.notice(),
                looked = self.looks.ended() => self.looked(looked),
                Some(end) = finished.recv() => {
                    self.finish(end);
                    // Whatever else has ended by now: one plan and one report for all.
                    while let Ok(end) = finished.try_recv() {
                        self.finish(end);
                    }
                }
                () = until(due) => self.forget_past(),
            }
        }
    }

    /// Reads what an earlier run left; until that is known nothing may be mounted or unmounted. `false` at shutdown.
    async fn reconstruct(&mut self, supervisor: &Supervisor) -> bool {
        loop {
            match reconstruct(&self.parts.host, &*self.parts.references).await {
                Ok(found) => {
                    self.doors.adopt(&found.have, &found.mounted);
                    self.have = found.have;
                    return true;
                }
                Err(error) => {
                    tracing::error!(error = error.with_causes(), "cannot read what is mounted; trying again");
                }
            }
            tokio::select! {
                () = supervisor.cancelled() => return false,
                () = tokio::time::sleep(RECONSTRUCT_AGAIN) => {}
            }
        }
    }

    fn observe(&mut self, pods: &PodSet) {
        let mut want = DesiredStateOfWorld::of(pods);
        let Taken { wanted, unseen, doubted, retried, version } = self.doors.take();
        want.volumes.extend(wanted);
        self.seen = version;
        self.compare(want);
        let failed: Vec<_> =
            self.operations.not_before.keys().filter(|key| retried.contains(&key.pod)).cloned().collect();
        for key in failed {
            self.start_anew(&key);
        }
        for key in unseen {
            self.clear_away(key);
        }
        for key in doubted {
            lost::doubt(&key, &self.want, &mut self.have);
        }
    }

    /// A door asks for a place to be cleared, whatever is known of it, and at once.
    fn clear_away(&mut self, key: Key) {
        self.start_anew(&key);
        self.stuck.remove(&key);
        if !self.want.volumes.contains_key(&key) {
            self.have.volumes.entry(key).or_insert(Have::Uncertain { decided: None });
        }
    }

    fn compare(&mut self, want: DesiredStateOfWorld) {
        let before = std::mem::replace(&mut self.want, want);
        let keys: BTreeSet<Key> = before.volumes.keys().chain(self.want.volumes.keys()).cloned().collect();
        for key in keys {
            match (before.volumes.get(&key), self.want.volumes.get(&key).cloned()) {
                (None, Some(new)) => self.came(key, &new),
                (Some(old), None) => self.went(key, old),
                (Some(old), Some(new)) if !old.is_same(&key, &new) => self.changed(key, old, &new),
                (Some(_), Some(_)) | (None, None) => {}
            }
        }
        let unwanted = self.mounting.iter().filter(|(key, _)| self.want.is_unwanted(key));
        unwanted.for_each(|(_, mounting)| mounting.cancel.cancel());
    }

    fn came(&mut self, key: Key, wanted: &Wanted) {
        self.parts.metrics.requested.inc();
        self.start_anew(&key);
        self.left.remove(&key);
        self.stuck.remove(&key);
        if let Some(Have::Uncertain { decided }) = self.have.volumes.get_mut(&key) {
            // Found after a restart, and meanwhile the pod may want another image.
            *decided = decided.take().filter(|decided| wanted.agrees_with(decided));
        }
        let shown = Shown::new(self.have.volumes.get(&key));
        self.shown.insert(key, shown);
    }

    fn went(&mut self, key: Key, wanted: &Wanted) {
        self.start_anew(&key);
        self.shown.remove(&key);
        if self.have.volumes.contains_key(&key) {
            self.left.insert(key, Arc::clone(&wanted.pod));
        }
    }

    /// A pod whose spec changed under its UID. The mount is made again: from a new decision if the volume is another one.
    fn changed(&mut self, key: Key, old: &Wanted, new: &Wanted) {
        let same = match key.door {
            Door::Pod => old.volume == new.volume,
            Door::Csi { .. } => old.is_same_volume(new),
        };
        // That a kubelet asks, or got its answer, is no reason to ask a registry again.
        if key.door == Door::Pod || !same {
            self.start_anew(&key);
        }
        if let Some(have) = self.have.volumes.get_mut(&key) {
            let decided = have.decided(old).filter(|_| same);
            *have = Have::Uncertain { decided };
        }
        if !same {
            self.mounting.get(&key).inspect(|mounting| mounting.cancel.cancel());
            self.shown.insert(key, Shown::new(None));
        }
    }

    /// What failed before does not count any more.
    fn start_anew(&mut self, key: &Key) {
        self.operations.not_before.remove(key);
        self.backoff.retain(|failed| failed != key);
    }

    /// Rows come first: whoever hears of volumes by a report may rely on it that their images are kept from then on.
    async fn execute(&mut self, tasks: &Tasks) {
        let actions = plan(&self.want, &self.have, &self.operations, Instant::now());
        for action in actions.iter().filter(|action| !action.removes()) {
            self.keep_image(action.key()).await;
        }
        for action in actions {
            match action {
                Action::Mount(key) | Action::Remount(key) => self.start_mount(key, tasks),
                Action::Unmount(key) | Action::CleanOrphan(key) => self.start_unmount(key, tasks),
            }
        }
    }

    /// What cannot be written now is written again by the mount, which fails with it.
    ///
    /// Killed after this: a row that the next start takes up, or releases if nobody wants the volume any more.
    async fn keep_image(&self, key: &Key) {
        let Some(wanted) = self.want.volumes.get(key) else { return };
        if let Err(error) = self.parts.references.hold(&key.holder(), &wanted.reference()).await {
            tracing::warn!(pod = %key.pod, volume = %key.volume, %error, "an image is not kept for a volume yet");
        }
    }

    fn start_mount(&mut self, key: Key, tasks: &Tasks) {
        let Some(wanted) = self.want.volumes.get(&key).cloned() else { return };
        let decided = self.have.volumes.get(&key).and_then(|have| have.decided(&wanted));
        let (progress, cancel) = (Progress::default(), tasks.supervisor.token().child_token());
        let how = SetUp {
            goal: wanted.goal,
            decided: decided.as_ref().map(|decided| decided.image.clone()),
            progress: progress.clone(),
            cancel: cancel.clone(),
        };
        // From here on something may be there, whatever becomes of the attempt.
        self.have.volumes.insert(key.clone(), Have::Uncertain { decided });
        self.operations.pending.insert(key.clone(), Operation::Mount);
        self.doors.pulls(&key, Some(progress.clone()));
        self.mounting.insert(key.clone(), Mounting { wanted: wanted.clone(), progress, cancel });
        if let Some(shown) = self.shown.get_mut(&key) {
            shown.starts();
        }
        let mount = operation::mount(self.parts.plugins.clone(), key, wanted, how, tasks.ended.clone());
        tasks.supervisor.spawn("mount volume", mount);
    }

    fn start_unmount(&mut self, key: Key, tasks: &Tasks) {
        // From here on it may be gone, or half of it.
        self.have.volumes.insert(key.clone(), Have::Uncertain { decided: None });
        self.operations.pending.insert(key.clone(), Operation::Unmount);
        let unmount = operation::unmount(self.parts.plugins.clone(), key, tasks.ended.clone());
        tasks.supervisor.spawn("unmount volume", unmount);
    }

    fn finish(&mut self, Ended { key, outcome }: Ended) {
        self.operations.pending.remove(&key);
        self.doors.pulls(&key, None);
        match outcome {
            Outcome::Mount(result) => self.mount_ended(key, result),
            Outcome::Unmount(Ok(())) => {
                tracing::info!(pod = %key.pod, volume = %key.volume, "volume unmounted");
                self.have.volumes.remove(&key);
                self.left.remove(&key);
                self.stuck.remove(&key);
                self.ended.remove(&key);
                self.start_anew(&key);
            }
            Outcome::Unmount(Err(error)) => self.unmount_failed(key, &error),
        }
    }

    fn mount_ended(&mut self, key: Key, result: Result<Mounted, SetUpFailed>) {
        let Some(Mounting { wanted, progress, cancel }) = self.mounting.remove(&key) else { return };
        self.throttle.forget(&key);
        self.attempts += 1;
        self.ended.insert(key.clone(), self.attempts);
        if cancel.is_cancelled() {
            // Of a life of the pod that is over. Whatever it left goes, by the plan.
            self.have.volumes.insert(key, Have::Uncertain { decided: None });
            return;
        }
        match result {
            Ok(mounted) => self.mounted(&key, &wanted, mounted),
            Err(failed) => self.failed(key, &wanted, failed, bytes_of(&progress)),
        }
    }

    fn mounted(&mut self, key: &Key, wanted: &Wanted, mounted: Mounted) {
        self.start_anew(key);
        let up_to_date = self.want.volumes.get(key).is_none_or(|now| now.is_same(key, wanted));
        let have = Have::Mounted(mounted.image.clone());
        let have = if up_to_date && wanted.goal == Goal::Mounted {
            tracing::info!(pod = %key.pod, volume = %key.volume, image = %mounted.image, "volume mounted");
            self.parts.metrics.count(&mounted);
            have
        } else {
            tracing::info!(pod = %key.pod, volume = %key.volume, image = %mounted.image, "image present");
            Have::Uncertain { decided: have.decided(wanted) }
        };
        self.have.volumes.insert(key.clone(), have);
        if let (true, Some(shown)) = (up_to_date, self.shown.get_mut(key)) {
            shown.mounted(&wanted.pod, mounted, &*self.parts.events);
        }
    }

    fn failed(&mut self, key: Key, wanted: &Wanted, failed: SetUpFailed, bytes: u64) {
        let (SetUpFailed { error, decided }, now) = (failed, Instant::now());
        tracing::warn!(pod = %key.pod, volume = %key.volume, error = error.with_causes(), "volume not mounted");
        if error.as_image().is_none() {
            self.parts.metrics.failed.inc();
        }
        let decided = decided.map(|image| Decided { image, reference: wanted.reference() });
        self.have.volumes.insert(key.clone(), Have::Uncertain { decided });
        let delay = match outcome::retry(&error) {
            Retry::In(delay) => delay,
            Retry::Backoff => self.backoff.next(key.clone(), now),
        };
        if let Some(shown) = self.shown.get_mut(&key) {
            outcome::told(&key.volume, &wanted.pod, &error).record(&*self.parts.events);
            shown.failed(&key.volume, &error, bytes, now);
        }
        self.operations.not_before.insert(key, now + delay);
    }

    fn unmount_failed(&mut self, key: Key, error: &VolumeError) {
        tracing::error!(pod = %key.pod, volume = %key.volume, error = error.with_causes(), "volume not unmounted");
        if let Some(pod) = self.left.get(&key) {
            outcome::told_unmount(&key.volume, pod, error).record(&*self.parts.events);
        }
        self.stuck.insert(key.clone(), error.with_causes());
        let now = Instant::now();
        let delay = self.backoff.next(key.clone(), now);
        self.operations.not_before.insert(key, now + delay);
    }

    /// When time alone changes something.
    fn next_due(&self) -> Option<Instant> {
        let now = Instant::now();
        let look = self.retrying().next().map(|_| now + PROGRESS_LOOK);
        let tell = self.mounting.keys().next().map(|_| now + PROGRESS_EVENTS);
        self.operations.next_due().into_iter().chain(look).chain(tell).chain(self.next_look()).min()
    }

    fn forget_past(&mut self) {
        let now = Instant::now();
        self.operations.not_before.retain(|_, due| now < *due);
    }

    /// A pull that failed before and goes on now counts as pulling.
    fn look_at_progress(&mut self) {
        let bytes: Vec<_> =
            self.retrying().map(|(key, mounting)| (key.clone(), bytes_of(&mounting.progress))).collect();
        for (key, bytes) in bytes {
            self.shown.get_mut(&key).into_iter().for_each(|shown| shown.look(bytes));
        }
    }

    /// Long pulls are told of in events of our own.
    fn tell_progress(&mut self) {
        let now = Instant::now();
        for (key, Mounting { wanted, progress, .. }) in &self.mounting {
            let (done, total) = progress.sums();
            let progress = progress::Progress { done, total };
            if let Some(text) = self.throttle.observe(key.clone(), &wanted.reference(), progress, now) {
                self.parts.events.record(&pod_ref(&wanted.pod), EventKind::Normal, PULL_PROGRESS, text);
            }
        }
    }

    /// The mounts under way that are shown as failed.
    fn retrying(&self) -> impl Iterator<Item = (&Key, &Mounting)> {
        self.mounting.iter().filter(|(key, _)| self.shown.get(*key).is_some_and(Shown::is_failed))
    }

    /// Nothing is said before every source of pods has been read: a volume that is mounted would seem to wait.
    fn report(&self) {
        self.doors.report(self.door_reports());
        if !self.want.all_sources_ready {
            return;
        }
        let reports = reports_of(&self.shown);
        self.reports.send_if_modified(|current| {
            let changed = current.as_deref() != Some(&reports);
            if changed {
                *current = Some(Arc::new(reports));
            }
            changed
        });
    }
}

impl VolumeManager {
    fn door_reports(&self) -> DoorReports {
        let of_doors = |key: &&Key| key.door != Door::Pod;
        let wanted = self.shown.iter().map(|(key, shown)| (key, shown.to_door(self.have.volumes.get(key))));
        let leaving = self.have.volumes.keys().filter(|key| !self.want.volumes.contains_key(*key));
        let leaving = leaving.map(|key| (key, DoorState::Leaving(self.stuck.get(key).cloned())));
        let volumes = wanted.chain(leaving).filter(|(key, _)| of_doors(key));
        let ended = |key: &Key| self.ended.get(key).copied().unwrap_or_default();
        let report = |(key, state): (&Key, DoorState)| (key.clone(), DoorReport { ended: ended(key), state });
        DoorReports { seen: self.seen, volumes: volumes.map(report).collect() }
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

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn bytes_of(progress: &Progress) -> u64 {
    progress.sums().0
}

#[cfg(test)]
mod tests;
