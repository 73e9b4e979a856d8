//! Volumes that come through other doors than the pods that this agent serves: a kubelet asks for them by CSI.
//!
//! A door says what it wants and waits for what becomes of it; the manager's loop sees these wishes beside the pods' own. Nothing is
//! kept here over a restart: reference rows and mounts tell what was published, and [`Volumes::adopt`] takes it up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use imagevol_api::corev1::{ImageVolumeSource, Pod, Volume};
use imagevol_api::metav1::ObjectMeta;
use imagevol_api::names::PodUid;
use imagevol_api::oci::Platform;
use imagevol_base::Target;
use imagevol_base::volumes::{Outlook, VolumeFailure};
use imagevol_cri::{ImageId, Progress};
use imagevol_images::{Claims, PullPolicy};
use imagevol_volume::{Goal, Key};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::state::{ActualStateOfWorld, Decided, Have, Wanted};

mod wishes;

use wishes::{Asked, Entry, Wishes};

/// What a door wants mounted.
#[derive(Debug, Clone)]
pub struct VolumeRequest {
    /// Its pod: events are about it, its pull secrets are shown.
    pub pod: Arc<Pod>,
    /// The image as the pod's author wrote it.
    pub reference: String,
    /// When the registry is asked; by default as for `volumes[].image`.
    pub policy: Option<PullPolicy>,
    /// What else may be shown to registries.
    pub claims: Arc<Claims>,
    /// The platform to choose from an index; by default the node's.
    pub platform: Option<Platform>,
}

/// Why a volume is not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The target is published already, with another image or policy.
    #[error("the volume is already published from image {reference:?}")]
    Conflict {
        /// What is published there.
        reference: String,
    },
    /// It cannot be published, and nothing is left of the attempt.
    #[error("{}", .0.message)]
    Failed(VolumeFailure),
    /// Time is up, and the volume stays wanted: the pull goes on.
    #[error("the image is still being pulled")]
    Waiting {
        /// Bytes that are here.
        done: u64,
        /// Bytes of all blobs that are known; 0 before the manifest is read.
        total: u64,
        /// Why the last attempt failed, if one did.
        last: Option<VolumeFailure>,
    },
    /// The pod is being deleted.
    #[error("the pod is being deleted")]
    PodDeleted,
    /// Somebody has unpublished the volume meanwhile.
    #[error("the volume was unpublished meanwhile")]
    Withdrawn,
    /// The daemon is ending.
    #[error("imagevold is shutting down")]
    Stopping,
}

/// A volume that is not unpublished: something of it is left, and its removal is tried again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnpublishError {
    /// The mount or its directory cannot be removed.
    #[error("{message}")]
    Failed {
        /// For the user.
        message: String,
    },
    /// The daemon is ending.
    #[error("imagevold is shutting down")]
    Stopping,
}

/// What becomes of a volume of a door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DoorState {
    /// Nothing is decided yet.
    Waiting,
    /// Its image is being looked up or pulled.
    Pulling,
    /// Its image is here, and nobody has asked for the mount.
    Present(ImageId),
    /// It is mounted.
    Mounted(ImageId),
    /// The last attempt failed.
    Failed(VolumeFailure),
    /// Nobody wants it any more; why it is still there, if that failed.
    Leaving(Option<String>),
}

/// A volume of a door, for people.
#[derive(Debug, Clone)]
pub struct DoorVolume {
    /// Its pod, as far as it is known.
    pub pod: Arc<Pod>,
    /// The image as it was asked for.
    pub reference: String,
    /// What became of it.
    pub state: DoorState,
    /// How far its pull has come.
    pub progress: Option<Progress>,
}

/// What the manager takes from the doors.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) wanted: BTreeMap<Key, Wanted>,
    /// To be cleared away, whether it is known or not.
    pub(crate) unseen: BTreeSet<Key>,
    /// Asked for again after they were mounted: whether they still are is to be found out.
    pub(crate) doubted: BTreeSet<Key>,
    /// Pods whose failures do not count any more.
    pub(crate) retried: BTreeSet<PodUid>,
    /// Of the wishes that hold all this.
    pub(crate) version: u64,
}

/// What the manager says of the volumes of doors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DoorReports {
    /// The newest version of the wishes that the manager has seen.
    pub(crate) seen: u64,
    /// Every volume that is wanted, or not gone yet.
    pub(crate) volumes: BTreeMap<Key, DoorReport>,
}

/// What the manager says of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DoorReport {
    /// Grows with each attempt that ends.
    pub(crate) ended: u64,
    pub(crate) state: DoorState,
}

/// The volumes of doors. Clones are the same.
#[derive(Clone)]
pub struct Volumes {
    shared: Arc<Shared>,
}

struct Shared {
    wishes: Mutex<Wishes>,
    /// Counts the changes of the wishes; changed while they are locked.
    version: watch::Sender<u64>,
    reports: watch::Sender<DoorReports>,
    /// Of the pulls under way.
    progress: Mutex<BTreeMap<Key, Progress>>,
}

// === impl DoorReports ===

impl DoorReports {
    fn state(&self, key: &Key) -> Option<&DoorState> {
        self.volumes.get(key).map(|report| &report.state)
    }
}

// === impl Volumes ===

impl Volumes {
    pub(crate) fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                wishes: Mutex::default(),
                version: watch::channel(0).0,
                reports: watch::channel(DoorReports::default()).0,
                progress: Mutex::default(),
            }),
        }
    }

    /// Wants the volume mounted, and waits for it until `until`. Passing failures are retried meanwhile.
    ///
    /// A final failure is answered by the end of an attempt, which comes when the back-off of the one before is over: no call makes a
    /// registry be asked more often. Where nobody tells of deleted pods ([`Volumes::forsake`]) a failure that is known already is the
    /// answer, for a call that waits would keep a deleted pod.
    ///
    /// Again for a published volume finds out whether it is still mounted, and mounts it again if somebody else has unmounted it. Dropping the future leaves the volume wanted.
    pub async fn publish(
        &self,
        target: &Target,
        request: VolumeRequest,
        until: Instant,
    ) -> Result<ImageId, PublishError> {
        let key = Key::from(target.clone());
        let mut reports = self.shared.reports.subscribe();
        let before = reports.borrow().volumes.get(&key).map_or(0, |report| report.ended);
        let version = self.want(&key, request)?;
        let ended = async {
            loop {
                if let Some(end) = self.look(&key, (before, version), &reports.borrow_and_update()) {
                    return end;
                }
                if reports.changed().await.is_err() {
                    return Err(PublishError::Stopping);
                }
            }
        };
        match tokio::time::timeout_at(until, ended).await {
            Ok(Err(PublishError::Failed(failure))) => self.undo(&key, failure, until).await,
            Ok(ended) => ended,
            Err(_) => Err(self.still_waiting(&key)),
        }
    }

    /// Unmounts the volume and removes its directory, also one that was never heard of; its image may go. Nothing there is no error.
    pub async fn unpublish(&self, target: &Target) -> Result<(), UnpublishError> {
        let key = Key::from(target.clone());
        let mut reports = self.shared.reports.subscribe();
        let version = self.change(|wishes| wishes.withdraw(&key));
        loop {
            {
                let reports = reports.borrow_and_update();
                match reports.state(&key).filter(|_| reports.seen >= version) {
                    Some(DoorState::Leaving(Some(message))) => {
                        return Err(UnpublishError::Failed { message: message.clone() });
                    }
                    None if reports.seen >= version => return Ok(()),
                    Some(_) | None => {}
                }
            }
            if reports.changed().await.is_err() {
                return Err(UnpublishError::Stopping);
            }
        }
    }

    /// What the living pods of this node will ask for, in place of what was expected before: the images are made present, and kept.
    ///
    /// A volume that was unpublished is not expected again while it is in the set.
    pub fn expect(&self, expected: BTreeMap<Target, VolumeRequest>) {
        let expected = expected.into_iter().map(|(target, request)| (Key::from(target), request)).collect();
        self.change(|wishes| wishes.expect(expected));
    }

    /// The pods that are being deleted, or gone. What of theirs is not published yet is given up, calls for it end, and new ones are refused.
    pub fn forsake(&self, deleted: BTreeSet<PodUid>) {
        self.change(|wishes| wishes.forsake(deleted));
    }

    /// Gives up a volume that nobody has published, for a reason of the caller. A published one stays.
    pub fn give_up(&self, target: &Target) {
        self.change(|wishes| wishes.give_up(&Key::from(target.clone())));
    }

    /// Tries again what has failed of a pod, without waiting for the end of its back-off.
    pub fn retry(&self, pod: &PodUid) {
        self.change(|wishes| {
            wishes.retried.insert(pod.clone());
        });
    }

    /// Waits until all that was said before has been taken up: of each volume that is wanted a row was written, or could not be. That
    /// is never where the manager does not run.
    pub async fn settle(&self) {
        let version = *self.shared.version.borrow();
        let mut reports = self.shared.reports.subscribe();
        // Never an error: the sender is ours.
        drop(reports.wait_for(|reports| reports.seen >= version).await);
    }

    /// Every volume that is wanted, with what became of it.
    pub fn list(&self) -> Vec<(Target, DoorVolume)> {
        let (wishes, reports, progress) = (self.wishes(), self.shared.reports.borrow(), self.progress());
        let volume = |(key, entry): (&Key, &Entry)| {
            let state = reports.state(key).cloned().unwrap_or(DoorState::Waiting);
            let (pod, reference) = (Arc::clone(&entry.wanted.pod), entry.wanted.reference());
            let volume = DoorVolume { pod, reference, state, progress: progress.get(key).cloned() };
            Some((key.target()?, volume))
        };
        wishes.entries.iter().filter_map(volume).collect()
    }

    /// The version of the wishes that holds this one.
    fn want(&self, key: &Key, request: VolumeRequest) -> Result<u64, PublishError> {
        let mut wanted = Ok(());
        let version = self.change(|wishes| wanted = wishes.publish(key, request));
        wanted.map(|()| version)
    }

    /// The end of a publish, if this is one. `before`: what had ended when it began; `version`: of the wishes that hold it.
    fn look(
        &self,
        key: &Key,
        (before, version): (u64, u64),
        reports: &DoorReports,
    ) -> Option<Result<ImageId, PublishError>> {
        let mut wishes = self.wishes();
        let Some(entry) = wishes.entries.get_mut(key).filter(|entry| entry.is_published()) else {
            let deleted = wishes.deleted.contains(&key.pod);
            return Some(Err(if deleted { PublishError::PodDeleted } else { PublishError::Withdrawn }));
        };
        let DoorReport { ended, state } = reports.volumes.get(key)?;
        match state {
            // Seen before this call: somebody may have unmounted it since.
            DoorState::Mounted(_) if reports.seen < version => None,
            DoorState::Mounted(image) => {
                // From here on only an unpublish takes it away: its containers may run.
                entry.asked = Asked::Mounted;
                Some(Ok(image.clone()))
            }
            DoorState::Failed(failure) => {
                let is_answer = failure.outlook == Outlook::Final && (*ended > before || !wishes.follows);
                is_answer.then(|| Err(PublishError::Failed(failure.clone())))
            }
            DoorState::Waiting | DoorState::Pulling | DoorState::Present(_) | DoorState::Leaving(_) => None,
        }
    }

    /// After a final failure nothing may be left: whoever asked will not unpublish.
    async fn undo(&self, key: &Key, failure: VolumeFailure, until: Instant) -> Result<ImageId, PublishError> {
        let mut reports = self.shared.reports.subscribe();
        let version = self.change(|wishes| wishes.fail(key));
        let undone = |reports: &DoorReports| {
            reports.seen >= version
                && !matches!(reports.state(key), Some(DoorState::Leaving(_) | DoorState::Mounted(_)))
        };
        match tokio::time::timeout_at(until, reports.wait_for(undone)).await {
            Ok(Ok(_)) => Err(PublishError::Failed(failure)),
            Ok(Err(_)) => Err(PublishError::Stopping),
            Err(_) => Err(PublishError::Waiting { done: 0, total: 0, last: Some(failure) }),
        }
    }

    fn still_waiting(&self, key: &Key) -> PublishError {
        let reports = self.shared.reports.borrow();
        let last = match reports.state(key) {
            Some(DoorState::Failed(failure)) => Some(failure.clone()),
            Some(_) | None => None,
        };
        let (done, total) = self.progress().get(key).map(Progress::sums).unwrap_or_default();
        PublishError::Waiting { done, total, last }
    }

    /// Changes the wishes and wakes the manager; the version that holds the change.
    fn change(&self, change: impl FnOnce(&mut Wishes)) -> u64 {
        let mut wishes = self.wishes();
        change(&mut wishes);
        self.shared.version.send_modify(|version| *version += 1);
        *self.shared.version.borrow()
    }

    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.shared.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self) -> MutexGuard<'_, BTreeMap<Key, Progress>> {
        self.shared.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The manager's side.
impl Volumes {
    /// Says when wishes have changed.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.shared.version.subscribe()
    }

    /// Takes up what an earlier run had published, or had ready for it.
    pub(crate) fn adopt(&self, have: &ActualStateOfWorld, mounted: &BTreeSet<Key>) {
        self.change(|wishes| {
            for (key, have) in &have.volumes {
                if let (Some(_), Have::Uncertain { decided: Some(decided) }) = (key.target(), have) {
                    wishes.adopt(key, adopted(key, decided), mounted.contains(key));
                }
            }
        });
    }

    /// What is wanted now.
    pub(crate) fn take(&self) -> Taken {
        let mut wishes = self.wishes();
        Taken {
            wanted: wishes.entries.iter().map(|(key, entry)| (key.clone(), entry.wanted.clone())).collect(),
            unseen: std::mem::take(&mut wishes.unseen),
            doubted: std::mem::take(&mut wishes.doubted),
            retried: std::mem::take(&mut wishes.retried),
            version: *self.shared.version.borrow(),
        }
    }

    pub(crate) fn report(&self, reports: DoorReports) {
        self.shared.reports.send_if_modified(|current| {
            let changed = *current != reports;
            *current = reports;
            changed
        });
    }

    pub(crate) fn pulls(&self, key: &Key, progress: Option<Progress>) {
        let mut all = self.progress();
        match progress {
            Some(progress) => all.insert(key.clone(), progress),
            None => all.remove(key),
        };
    }
}

impl std::fmt::Debug for Volumes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volumes").field("wanted", &self.wishes().entries.len()).finish_non_exhaustive()
    }
}

/// A volume as its row tells of it: the pod's names are not known until it is asked for again.
fn adopted(key: &Key, decided: &Decided) -> Wanted {
    let metadata = ObjectMeta { uid: Some(key.pod.to_string()), ..ObjectMeta::default() };
    let request = VolumeRequest {
        pod: Arc::new(Pod { metadata, ..Pod::default() }),
        reference: decided.reference.clone(),
        policy: None,
        claims: Arc::default(),
        platform: None,
    };
    Wanted { adopted: true, ..wanted(key, request, Goal::Present) }
}

fn wanted(key: &Key, request: VolumeRequest, goal: Goal) -> Wanted {
    let VolumeRequest { pod, reference, policy, claims, platform } = request;
    let pull_policy = policy.map(|policy| policy.as_str().to_owned());
    let image = ImageVolumeSource { reference: Some(reference), pull_policy };
    let volume = Volume { name: key.volume.to_string(), image: Some(image), ..Volume::default() };
    Wanted { pod, volume: Arc::new(volume), claims, platform, goal, adopted: false }
}

#[cfg(test)]
mod tests;
