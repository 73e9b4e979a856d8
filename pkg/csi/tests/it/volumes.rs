//! Volumes in a table, with pulls that take the time that a test says. They mount nothing: a mounted volume is a directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use imagevol_api::names::PodUid;
use imagevol_api::oci::Digest;
use imagevol_base::Target;
use imagevol_base::volumes::{FailureCause, Outlook, VolumeFailure};
use imagevol_cri::ImageId;
use imagevol_csi::Publisher;
use imagevol_volumemanager::{DoorState, DoorVolume, PublishError, UnpublishError, VolumeRequest};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::async_trait;

/// Outlives the driver, as mounts and reference rows do. Clones are the same.
#[derive(Clone)]
pub(crate) struct FakeVolumes(Arc<Inner>);

struct Inner {
    root: PathBuf,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    fates: BTreeMap<String, (Duration, Option<VolumeFailure>)>,
    /// When the one pull of a reference began.
    pulls: BTreeMap<String, Instant>,
    volumes: BTreeMap<Target, (VolumeRequest, bool)>,
    deleted: BTreeSet<PodUid>,
    stopped: bool,
    log: Vec<String>,
}

// === impl FakeVolumes ===

impl FakeVolumes {
    pub(crate) fn new(root: &Path) -> Self {
        Self(Arc::new(Inner { root: root.to_owned(), state: Mutex::default(), changed: watch::channel(0).0 }))
    }

    /// How long the pull of an image takes; others are there.
    pub(crate) fn pull_takes(&self, reference: &str, seconds: u64) {
        self.state().fates.insert(reference.to_owned(), (Duration::from_secs(seconds), None));
    }

    /// That an image fails for good, and when.
    pub(crate) fn pull_fails(&self, reference: &str, seconds: u64, cause: FailureCause) {
        let message = format!("no {reference}: {cause:?}");
        let failure = VolumeFailure { reason: "ErrImagePull", message, outlook: Outlook::Final, cause };
        self.state().fates.insert(reference.to_owned(), (Duration::from_secs(seconds), Some(failure)));
    }

    /// As the watch of pods does when one is deleted.
    pub(crate) fn forsake(&self, pod: &str) {
        self.state().deleted.insert(pod.parse().unwrap());
        self.change();
    }

    /// Nothing is unpublished from now on, as in a daemon that is ending.
    pub(crate) fn stop(&self) {
        self.state().stopped = true;
    }

    /// A daemon is there again.
    pub(crate) fn go_on(&self) {
        self.state().stopped = false;
    }

    /// Wants a volume without anybody who waits for it.
    pub(crate) fn want(&self, target: &Target, request: VolumeRequest) {
        self.state().volumes.insert(target.clone(), (request, false));
    }

    /// Every volume that is wanted, as `pod/volume`.
    pub(crate) fn wanted(&self) -> Vec<String> {
        self.state().volumes.keys().map(|target| format!("{}/{}", target.pod, target.volume)).collect()
    }

    /// What was asked for: publishes, pulls, unpublishes.
    pub(crate) fn log(&self) -> Vec<String> {
        self.state().log.clone()
    }

    pub(crate) fn count(&self, what: &str) -> usize {
        self.state().log.iter().filter(|line| line.starts_with(what)).count()
    }

    /// Waits until something holds.
    pub(crate) async fn until(&self, holds: impl Fn(&Self) -> bool) {
        let mut changed = self.0.changed.subscribe();
        while !holds(self) {
            changed.changed().await.unwrap();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    fn change(&self) {
        self.0.changed.send_modify(|version| *version += 1);
    }

    /// What became of a wanted volume by now.
    fn look(&self, target: &Target) -> Option<Result<ImageId, PublishError>> {
        let mut state = self.state();
        if state.deleted.contains(&target.pod) && !state.volumes.get(target).is_some_and(|(_, mounted)| *mounted) {
            state.volumes.remove(target);
            return Some(Err(PublishError::PodDeleted));
        }
        let Some((request, _)) = state.volumes.get(target) else { return Some(Err(PublishError::Withdrawn)) };
        let reference = request.reference.clone();
        let (takes, failure) = state.fates.get(&reference).cloned().unwrap_or_default();
        if state.pulls.get(&reference).is_none_or(|begun| begun.elapsed() < takes) {
            return None;
        }
        if let Some(failure) = failure {
            state.volumes.remove(target);
            return Some(Err(PublishError::Failed(failure)));
        }
        let leaf = target.below(&self.0.root);
        if let Err(error) = fs::create_dir(&leaf) {
            assert_eq!(
                error.kind(),
                io::ErrorKind::AlreadyExists,
                "the kubelet makes the parent of {}",
                leaf.display()
            );
        }
        state.volumes.get_mut(target).unwrap().1 = true;
        Some(Ok(image()))
    }

    fn want_published(&self, target: &Target, request: VolumeRequest) -> Result<Instant, PublishError> {
        let mut state = self.state();
        let reference = request.reference.clone();
        state.log.push(format!("publish {}/{} {reference}", target.pod, target.volume));
        if let Some((before, _)) = state.volumes.get(target).filter(|(before, _)| before.reference != reference) {
            return Err(PublishError::Conflict { reference: before.reference.clone() });
        }
        let takes = state.fates.get(&reference).map(|(takes, _)| *takes).unwrap_or_default();
        if !state.pulls.contains_key(&reference) {
            state.log.push(format!("pull {reference}"));
            state.pulls.insert(reference.clone(), Instant::now());
        }
        let is_mounted = state.volumes.get(target).is_some_and(|(_, mounted)| *mounted);
        state.volumes.insert(target.clone(), (request, is_mounted));
        Ok(state.pulls[&reference] + takes)
    }
}

#[async_trait]
impl Publisher for FakeVolumes {
    async fn publish(&self, target: &Target, request: VolumeRequest, until: Instant) -> Result<ImageId, PublishError> {
        let mut changed = self.0.changed.subscribe();
        let done = self.want_published(target, request)?;
        self.change();
        loop {
            if let Some(end) = self.look(target) {
                return end;
            }
            tokio::select! {
                _ = changed.changed() => {}
                () = tokio::time::sleep_until(done) => {}
                () = tokio::time::sleep_until(until) => return Err(PublishError::Waiting { done: 1, total: 2, last: None }),
            }
        }
    }

    async fn unpublish(&self, target: &Target) -> Result<(), UnpublishError> {
        let mut state = self.state();
        if state.stopped {
            return Err(UnpublishError::Stopping);
        }
        state.log.push(format!("unpublish {}/{}", target.pod, target.volume));
        state.volumes.remove(target);
        drop(state);
        match fs::remove_dir(target.below(&self.0.root)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => panic!("remove the leaf: {error}"),
            _ => {}
        }
        self.change();
        Ok(())
    }

    fn give_up(&self, target: &Target) {
        self.state().volumes.retain(|other, (_, mounted)| other != target || *mounted);
        self.change();
    }

    fn list(&self) -> Vec<(Target, DoorVolume)> {
        let volume = |(target, (request, mounted)): (&Target, &(VolumeRequest, bool))| {
            let state = if *mounted { DoorState::Mounted(image()) } else { DoorState::Pulling };
            let (pod, reference) = (Arc::clone(&request.pod), request.reference.clone());
            (target.clone(), DoorVolume { pod, reference, state, progress: None })
        };
        self.state().volumes.iter().map(volume).collect()
    }
}

fn image() -> ImageId {
    ImageId::new(format!("sha256:{}", "0".repeat(64)).parse::<Digest>().unwrap())
}
