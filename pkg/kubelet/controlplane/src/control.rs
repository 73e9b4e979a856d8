//! The control plane as one value: what the daemon's handlers call, and the task behind them.
//!
//! One task owns the [`World`]: it hears of new manifests, reports, commands and deadlines, draws the conclusions, writes them to
//! `status.redb`, and only then publishes them. A kill in between repeats the step after the restart.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use imagevol_api::core::pod_ref;
use imagevol_api::corev1::{Event, Pod};
use imagevol_api::daemon::ApplyResponse;
use imagevol_api::names::PodUid;
use imagevol_base::blocking;
use imagevol_base::volumes::{PodVolumeReport, VolumeReports};
use imagevol_base::{EventKind, EventRecorder, PodSet, Supervisor};

use crate::apiserver::post::{self, EventSink, Subjects};
use crate::apiserver::{ApiServer, Posting};
use crate::clock::WallClock;
use crate::db::{DbError, PodRow, StatusDb};
use crate::events::{self, EventSettings, Events, Recorder};
use crate::file::{FileSource, Host, Loaded, Manifests, Problem};
use crate::manifest::{self, DryRun, RemoveError, Sent};
use crate::status::{Now, PullFailure};
use crate::world::{Rows, Step, World, row_failed};

/// Commands that wait while a step is written: each is a request of the local API, which waits for its answer.
const MAX_QUEUED_COMMANDS: usize = 64;
/// Reason of the event about a pod that has failed for good; a kubelet has none, since its pods never do.
const POD_FAILED: &str = "PodFailed";

/// What the control plane needs to know.
#[derive(Debug, Clone)]
pub struct ControlPlaneSettings {
    /// The directory of manifests; made if it is not there.
    pub manifest_dir: PathBuf,
    /// Name of this node.
    pub node_name: String,
    /// How often every manifest is looked at, besides whenever it changes.
    pub file_check_frequency: Duration,
    /// What becomes of pods whose image volumes cannot be pulled.
    pub pull_failure: PullFailure,
    /// How long events are kept.
    pub event_ttl: Duration,
    /// Stamps events and statuses.
    pub clock: WallClock,
}

/// Pods in; events and statuses out. Clones share one state.
#[derive(Debug, Clone)]
pub struct ControlPlane {
    source: FileSource,
    recorder: Recorder,
    events: Events,
    posting: Option<Posting>,
    reports: watch::Sender<Option<Arc<VolumeReports>>>,
    pods: watch::Receiver<Arc<PodSet>>,
    rows: watch::Receiver<Rows>,
    commands: mpsc::Sender<Command>,
}

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ControlPlaneError {
    /// There is no such object.
    #[error("{kind}s {name:?} not found")]
    NotFound {
        /// `pod` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// There is nothing to retry.
    #[error("pod {name:?} has not failed")]
    NotFailed {
        /// Its name.
        name: String,
    },
    /// A file that somebody wrote by hand holds the pod and more: only they can say what becomes of the rest.
    #[error(
        "{kind} {name:?} is defined in the manifest file {file} together with other objects ({others}): change or remove that file"
    )]
    SharedFile {
        /// `pod` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Name of the file.
        file: String,
        /// How many more objects it holds.
        others: usize,
    },
    /// The file system refused.
    #[error("cannot remove the manifest file {file}")]
    Remove {
        /// Name of the file.
        file: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The process is ending.
    #[error("the control plane has stopped")]
    Stopped,
}

/// What a handler asks of the task.
#[derive(Debug)]
enum Command {
    /// To have drawn the conclusions from all that has been published.
    Settle(oneshot::Sender<()>),
    /// The same, after a pod's failure has been forgotten.
    Retry(PodUid, oneshot::Sender<()>),
}

/// The task.
struct Keeper {
    world: World,
    db: StatusDb,
    clock: WallClock,
    recorder: Recorder,
    manifests: watch::Receiver<Arc<Manifests>>,
    reports: watch::Receiver<Option<Arc<VolumeReports>>>,
    commands: mpsc::Receiver<Command>,
    pods: watch::Sender<Arc<PodSet>>,
    rows: watch::Sender<Rows>,
    subjects: Option<Subjects>,
}

// === impl ControlPlane ===

impl ControlPlane {
    /// Reads what the last run knew and starts to follow the manifests. All tasks end with `supervisor`.
    pub async fn start(settings: ControlPlaneSettings, db: StatusDb, supervisor: &Supervisor) -> Result<Self, DbError> {
        Self::begin(settings, None, db, supervisor).await
    }

    /// The same on a node of a cluster: events about its pods, and about the node itself, are also posted to the API server.
    pub async fn start_in_cluster(
        settings: ControlPlaneSettings,
        server: &ApiServer,
        db: StatusDb,
        supervisor: &Supervisor,
    ) -> Result<Self, DbError> {
        let subjects = Subjects::new(settings.node_name.clone());
        let sink = post::start(server.clone(), subjects.clone(), settings.clock.clone(), supervisor);
        Self::begin(settings, Some((sink, subjects)), db, supervisor).await
    }

    async fn begin(
        settings: ControlPlaneSettings,
        cluster: Option<(EventSink, Subjects)>,
        db: StatusDb,
        supervisor: &Supervisor,
    ) -> Result<Self, DbError> {
        let ControlPlaneSettings { manifest_dir, node_name, file_check_frequency, pull_failure, event_ttl, clock } =
            settings;
        let (sink, subjects) = cluster.unzip();
        let posting = sink.as_ref().map(EventSink::counts);
        let event_settings = EventSettings { node_name: node_name.clone(), ttl: event_ttl, clock: clock.clone() };
        let (recorder, events) = events::start_with(event_settings, sink, db.clone(), supervisor).await?;
        let saved = saved_rows(db.clone(), manifest_dir.clone()).await?;
        let host = Host { node_name, clock: clock.clone() };
        let source = FileSource::new(manifest_dir, host, remembered(&saved), file_check_frequency);

        let (reports, reports_in) = watch::channel(None);
        let (pods_out, pods) = watch::channel(Arc::default());
        let (rows_out, rows) = watch::channel(saved.clone());
        let (commands, commands_in) = mpsc::channel(MAX_QUEUED_COMMANDS);
        let keeper = Keeper {
            world: World::new(pull_failure, saved.clone()),
            db,
            clock,
            recorder: recorder.clone(),
            manifests: source.subscribe(),
            reports: reports_in,
            commands: commands_in,
            pods: pods_out,
            rows: rows_out,
            subjects,
        };
        keeper.note_static(saved.keys());
        supervisor.spawn("manifests", source.clone().run(supervisor.token()));
        supervisor.spawn("controlplane", keeper.run(supervisor.token()));
        Ok(Self { source, recorder, events, posting, reports, pods, rows, commands })
    }

    /// The pods that this node serves, from now on. A pod that has failed is not among them.
    pub fn served_pods(&self) -> watch::Receiver<Arc<PodSet>> {
        self.pods.clone()
    }

    /// Takes events.
    pub fn recorder(&self) -> Recorder {
        self.recorder.clone()
    }

    /// Takes what became of the volumes of **all** pods that the volume manager knows. A pod must go from the reports once it is torn down:
    /// until then it is not served again.
    pub fn report(&self, reports: VolumeReports) {
        self.reports.send_replace(Some(Arc::new(reports)));
    }

    /// Every pod with its status, by namespace and name.
    pub fn pods(&self, namespace: Option<&str>) -> Vec<Pod> {
        let rows = self.rows.borrow();
        let wanted = |row: &&Arc<PodRow>| namespace.is_none_or(|of| row.pod.metadata.namespace.as_deref() == Some(of));
        let mut pods: Vec<_> = rows.values().filter(wanted).map(|row| row.pod.clone()).collect();
        pods.sort_by(|a, b| full_name(a).cmp(&full_name(b)));
        pods
    }

    /// A pod with its status.
    pub fn pod(&self, namespace: &str, name: &str) -> Result<Pod, ControlPlaneError> {
        let rows = self.rows.borrow();
        let found = rows.values().find(|row| full_name(&row.pod) == (Some(namespace), Some(name)));
        found
            .map(|row| row.pod.clone())
            .ok_or_else(|| ControlPlaneError::NotFound { kind: "pod", name: name.to_owned() })
    }

    /// The events of a namespace, or all.
    pub fn events(&self, namespace: Option<&str>) -> Vec<Event> {
        self.events.list(namespace)
    }

    /// What became of events for the API server; `None` without one.
    pub fn posting(&self) -> Option<&Posting> {
        self.posting.as_ref()
    }

    /// What is wrong with the manifests.
    pub fn problems(&self) -> Vec<Problem> {
        self.source.manifests().problems.clone()
    }

    /// The manifests as they are used.
    pub(crate) fn manifests(&self) -> Arc<Manifests> {
        self.source.manifests()
    }

    /// Puts every object of a manifest into the manifest directory, each as a file of its own, and waits until [`ControlPlane::pods`] shows it.
    pub async fn apply(&self, manifest: Vec<u8>, from: impl Into<Sent>, dry_run: DryRun) -> ApplyResponse {
        let from = from.into();
        let apply = move |scanner: &mut _| manifest::apply(scanner, &manifest, &from, dry_run);
        let results = self.source.with_scanner(apply).await;
        // The objects are on disk: that the process is ending takes nothing back.
        self.settle().await.unwrap_or_else(|_| tracing::debug!("applied while stopping"));
        ApplyResponse { results }
    }

    /// Removes the files that define a pod and nothing else. Does not wait until its volumes are torn down.
    pub async fn delete(&self, namespace: &str, name: &str) -> Result<(), ControlPlaneError> {
        self.remove("pod", namespace, name).await
    }

    /// Removes the files that define a secret and nothing else. What was pulled with it stays.
    pub async fn delete_secret(&self, namespace: &str, name: &str) -> Result<(), ControlPlaneError> {
        self.remove("secret", namespace, name).await
    }

    async fn remove(&self, kind: &'static str, namespace: &str, name: &str) -> Result<(), ControlPlaneError> {
        let key = (kind, (namespace.to_owned(), name.to_owned()));
        let removed = self.source.with_scanner(move |scanner| manifest::remove(scanner, &key)).await;
        let name = || name.to_owned();
        removed.map_err(|error| match error {
            RemoveError::NotFound => ControlPlaneError::NotFound { kind, name: name() },
            RemoveError::Shared { file, others } => ControlPlaneError::SharedFile { kind, name: name(), file, others },
            RemoveError::Io { file, source } => ControlPlaneError::Remove { file, source },
        })?;
        self.settle().await
    }

    /// Starts a pod anew that has failed, or ends the waiting of one whose volumes fail: `clear_backoff` is called first, so that its images
    /// are asked for again at once.
    pub async fn retry(
        &self,
        namespace: &str,
        name: &str,
        clear_backoff: impl FnOnce(&PodUid),
    ) -> Result<(), ControlPlaneError> {
        let missing = || ControlPlaneError::NotFound { kind: "pod", name: name.to_owned() };
        let uid = self.manifests().pod(namespace, name).map(|(uid, _)| uid.clone()).ok_or_else(missing)?;
        if !self.fails(&uid) {
            return Err(ControlPlaneError::NotFailed { name: name.to_owned() });
        }
        clear_backoff(&uid);
        self.ask(|done| Command::Retry(uid, done)).await
    }

    /// Whether the pod has failed, or a volume of it fails.
    fn fails(&self, uid: &PodUid) -> bool {
        let has_failed = self.rows.borrow().get(uid).is_some_and(|row| row_failed(row));
        let reports = self.reports.borrow();
        let report = reports.as_ref().and_then(|reports| reports.get(uid));
        has_failed || report.is_some_and(PodVolumeReport::fails)
    }

    /// Waits until all that was published before has been acted upon.
    pub async fn settle(&self) -> Result<(), ControlPlaneError> {
        self.ask(Command::Settle).await
    }

    async fn ask(&self, command: impl FnOnce(oneshot::Sender<()>) -> Command) -> Result<(), ControlPlaneError> {
        let (done, answer) = oneshot::channel();
        self.commands.send(command(done)).await.map_err(|_| ControlPlaneError::Stopped)?;
        answer.await.map_err(|_| ControlPlaneError::Stopped)
    }
}

// === impl ControlPlaneError ===

impl ControlPlaneError {
    /// The HTTP code that Kubernetes gives the same condition.
    pub const fn code(&self) -> u16 {
        match self {
            Self::NotFound { .. } => 404,
            Self::NotFailed { .. } | Self::SharedFile { .. } => 409,
            Self::Remove { .. } => 500,
            Self::Stopped => 503,
        }
    }

    /// `reason` of a `metav1.Status`.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "NotFound",
            Self::NotFailed { .. } | Self::SharedFile { .. } => "Conflict",
            Self::Remove { .. } => "InternalError",
            Self::Stopped => "ServiceUnavailable",
        }
    }
}

// === impl Keeper ===

impl Keeper {
    async fn run(mut self, cancel: CancellationToken) {
        let mut waiting = Vec::new();
        loop {
            let due = self.step().await;
            for done in waiting.drain(..) {
                answer(done);
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = sleep_until(due) => {}
                Some(command) = self.commands.recv() => waiting.push(self.obey(command)),
                Ok(()) = self.manifests.changed() => {}
                Ok(()) = self.reports.changed() => {}
            }
        }
    }

    /// Draws the conclusions from the newest of everything; when to look again.
    async fn step(&mut self) -> Option<Instant> {
        self.world.manifests = Arc::clone(&self.manifests.borrow_and_update());
        self.note_static(self.world.manifests.pods.keys());
        self.world.reports.clone_from(&self.reports.borrow_and_update());
        let step = self.world.step(Now { wall: self.clock.now(), instant: Instant::now() });
        let due = step.due;
        self.carry_out(step).await;
        due
    }

    /// To be called before anybody can say anything about these pods.
    fn note_static<'u>(&self, uids: impl Iterator<Item = &'u PodUid>) {
        if let Some(subjects) = &self.subjects {
            subjects.note_static(uids.map(PodUid::as_str));
        }
    }

    fn obey(&mut self, command: Command) -> oneshot::Sender<()> {
        match command {
            Command::Settle(done) => done,
            Command::Retry(uid, done) => {
                if self.world.retry(&uid) {
                    tracing::info!(%uid, "a failed pod is tried again");
                }
                done
            }
        }
    }

    async fn carry_out(&mut self, step: Step) {
        let Step { pods, rows, unsaved, failed, due: _ } = step;
        if !unsaved.put.is_empty() || !unsaved.remove.is_empty() {
            let db = self.db.clone();
            // A kill before this line repeats the step after the restart, from the same manifests; a kill after it, and before the pods are
            // published, leaves a pod failed whose mounts the volume manager then finds without an owner.
            match blocking(move || db.change_pods(&unsaved)).await {
                Ok(()) => self.world.saved(rows.clone()),
                // What is unsaved stays so, and goes with the next step.
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "pod statuses could not be written");
                }
            }
        }
        for row in &failed {
            self.tell_failure(row);
        }
        self.rows.send_replace(rows);
        self.pods.send_if_modified(|published| {
            let changed = !same_pods(published, &pods);
            if changed {
                *published = Arc::new(pods);
            }
            changed
        });
    }

    fn tell_failure(&self, row: &PodRow) {
        let message = row.pod.status.as_ref().and_then(|status| status.message.clone()).unwrap_or_default();
        self.recorder.record(&pod_ref(&row.pod), EventKind::Warning, POD_FAILED, message);
    }
}

/// A handler that has gone away wants no answer.
fn answer(done: oneshot::Sender<()>) {
    done.send(()).unwrap_or_default();
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn same_pods(one: &PodSet, other: &PodSet) -> bool {
    one.all_sources_ready == other.all_sources_ready
        && one.pods.len() == other.pods.len()
        && one.pods.iter().zip(&other.pods).all(|(a, b)| a.0 == b.0 && Arc::ptr_eq(a.1, b.1))
}

fn full_name(pod: &Pod) -> (Option<&str>, Option<&str>) {
    (pod.metadata.namespace.as_deref(), pod.metadata.name.as_deref())
}

/// The pods of the last run, and a directory that is fit to be read. One that is not shows as a problem of the manifests later.
async fn saved_rows(db: StatusDb, manifest_dir: PathBuf) -> Result<Rows, DbError> {
    blocking(move || {
        if let Err(error) = manifest::prepare_directory(&manifest_dir) {
            tracing::error!(?manifest_dir, %error, "the manifest directory could not be prepared");
        }
        let rows = db.pods()?.into_iter();
        Ok(rows.filter_map(|(uid, row)| Some((uid.parse().ok()?, Arc::new(row)))).collect())
    })
    .await
}

/// What each file held in the last run, for files that cannot be used now.
fn remembered(rows: &Rows) -> BTreeMap<OsString, Vec<Loaded>> {
    let mut files: BTreeMap<OsString, Vec<Loaded>> = BTreeMap::new();
    for (uid, row) in rows {
        let pod = Pod { status: None, ..row.pod.clone() };
        let file = OsString::from(&row.file);
        files.entry(file).or_default().push(Loaded::Pod { uid: uid.clone(), pod: pod.into() });
    }
    files
}

#[cfg(test)]
mod tests;
