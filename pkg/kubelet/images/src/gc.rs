//! Garbage collection of images: the kubelet's policy (Kubernetes, `pkg/kubelet/images/image_gc_manager.go`) over an image service that
//! knows what is used.
//!
//! A cycle has two phases. The age phase takes what nobody has used for too long; the space phase brings a disk that is fuller than the
//! high threshold down to the low one. Which images may go at all is decided by the image service, in the transaction that removes each:
//! never one that is held, pinned, mounted or young.

use std::sync::Arc;
use std::time::Duration;

use imagevol_api::corev1::ObjectReference;
use imagevol_base::EventKind;
use imagevol_base::collection::{Collection, Execution, Goal, Turn, Wish};
use imagevol_cri::{ImageCollector, ImageReferences, ImageService};
use tokio::sync::mpsc;

use crate::manager::ImageManager;

mod error;
mod outcome;
mod policy;

pub use error::GcError;
use error::aggregate;
pub use outcome::{GcOutcome, GcPhase, GcReason, GcRequest, GcScope};
use policy::{Disk, space_wanted};
pub use policy::{GcPolicy, GcPolicyError, Percent};

/// From the end of a cycle to the next (Kubernetes, `pkg/kubelet/kubelet.go`, `ImageGCPeriod`).
const PERIOD: Duration = Duration::from_mins(5);

/// Collects images of the node, in a loop and by command.
pub struct ImageGc<S> {
    images: Arc<ImageManager<S>>,
    node: ObjectReference,
    policy: GcPolicy,
}

/// What garbage collection is made of.
#[expect(missing_debug_implementations, reason = "its parts are traits of others")]
pub struct GcParts<S> {
    /// Whose images are collected; its events, metrics and records are used too.
    pub images: Arc<ImageManager<S>>,
    /// What events are about: the node, whose UID is its name.
    pub node: ObjectReference,
    /// When and how much is collected.
    pub policy: GcPolicy,
}

/// How the cycle before ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Succeeded,
    Failed,
}

/// A collection on its way: what it did, and what went wrong, which does not end it.
#[derive(Debug)]
struct Sweep {
    turn: Turn,
    outcome: GcOutcome,
    troubles: Vec<GcError>,
}

// === impl ImageGc ===

impl<S> ImageGc<S> {
    /// Collects nothing until it is told to.
    pub fn new(parts: GcParts<S>) -> Self {
        let GcParts { images, node, policy } = parts;
        Self { images, node, policy }
    }

    /// When and how much is collected.
    pub fn policy(&self) -> &GcPolicy {
        &self.policy
    }
}

impl<S: ImageService + ImageReferences + ImageCollector> ImageGc<S> {
    /// Runs a cycle as soon as there are turns and then every five minutes, until it is dropped. Ends if the policy collects nothing.
    ///
    /// Dropped in the middle of a cycle, it leaves each image whole or gone.
    pub async fn run(&self) {
        if self.policy.is_off() {
            tracing::info!("image garbage collection is off: the high threshold is 100% and no maximum age is set");
            return;
        }
        let mut before = Before::Succeeded;
        loop {
            before = self.cycle(before).await;
            tokio::time::sleep(PERIOD).await;
        }
    }

    /// Collects by command, after the collection that runs, if one does. Tells no events: who asked gets the answer.
    ///
    /// That single images could not be removed, or that too little went, is no error: the outcome says so.
    pub async fn collect(&self, request: GcRequest) -> Result<GcOutcome, GcError> {
        let turn = self.images.service().turns().soon().await.map_err(|source| GcError::NotYet { source })?;
        let Sweep { outcome, troubles, .. } = self.sweep(&turn, request).await;
        match troubles.into_iter().find(GcError::is_of_the_whole) {
            Some(error) => Err(error),
            None => Ok(outcome),
        }
    }

    /// Takes note of what goes to make room for pulls, as of what goes in cycles, until nobody makes room any more.
    pub async fn note_room(&self, mut made: mpsc::UnboundedReceiver<Collection>) {
        while let Some(collection) = made.recv().await {
            self.note(GcReason::Admission, &collection);
            for (image, error) in &collection.failed {
                tracing::warn!(%image, error, "an image could not be removed to make room");
            }
            if !collection.gone.is_empty() {
                self.prune_records().await;
            }
        }
    }

    /// (Kubernetes, `pkg/kubelet/kubelet.go`, `StartGarbageCollection`.)
    async fn cycle(&self, before: Before) -> Before {
        let request = GcRequest { scope: GcScope::Policy, execution: Execution::Delete };
        let turn = self.images.service().turns().next().await;
        let troubles = self.sweep(&turn, request).await.troubles;
        drop(turn);
        for trouble in &troubles {
            if let Some(reason) = trouble.event() {
                self.tell(reason, trouble.message());
            }
        }
        if troubles.is_empty() {
            return Before::Succeeded;
        }
        self.images.metrics().collection_failed();
        let error = aggregate(troubles.iter().map(GcError::message));
        match before {
            // At the start the disk may not be known yet.
            Before::Succeeded => tracing::warn!(error, "image garbage collection failed once"),
            Before::Failed => {
                tracing::error!(error, "image garbage collection failed again");
                self.tell("ImageGCFailed", error);
            }
        }
        Before::Failed
    }

    async fn sweep(&self, turn: &Turn, request: GcRequest) -> Sweep {
        let mut sweep = Sweep { turn: turn.clone(), outcome: GcOutcome::default(), troubles: Vec::new() };
        match request.scope {
            GcScope::Policy => self.by_policy(request.execution, &mut sweep).await,
            GcScope::Everything => self.everything(request.execution, &mut sweep).await,
        }
        let removed = request.execution == Execution::Delete && sweep.outcome.gone().next().is_some();
        if removed {
            self.prune_records().await;
        }
        sweep
    }

    async fn by_policy(&self, execution: Execution, sweep: &mut Sweep) {
        let disk = self.disk().await;
        sweep.outcome.used_percent = disk.as_ref().map_or(0, |disk| disk.used_percent());
        // Age does not depend on the disk: it goes first even if nobody can tell how full that is, as in the kubelet.
        let aged = self.by_age(execution, sweep).await;
        let disk = match execution {
            Execution::Delete if aged > 0 => self.disk().await,
            Execution::Delete => disk,
            Execution::DryRun => disk.map(|disk| disk.with_freed(aged)),
        };
        match disk {
            Ok(disk) => self.by_space(disk, execution, sweep).await,
            Err(error) => sweep.troubles.push(error),
        }
    }

    /// Bytes that went, or would go. The kubelet waits until it has run for the maximum age, since it knows no use from before its start;
    /// here the last use is on disk.
    async fn by_age(&self, execution: Execution, sweep: &mut Sweep) -> u64 {
        let Some(max_age) = self.policy.max_age() else { return 0 };
        let Some(collection) = self.phase(Goal::UnusedFor(max_age), execution, sweep).await else { return 0 };
        let freed = collection.freed_bytes();
        sweep.troubles.extend(GcError::of_age(max_age, &collection));
        self.add(GcPhase { reason: GcReason::Age, collection }, execution, sweep);
        freed
    }

    async fn by_space(&self, disk: Disk, execution: Execution, sweep: &mut Sweep) {
        let Some(wanted) = space_wanted(disk, &self.policy) else { return };
        tracing::info!(used = disk.used_percent(), wanted, "the image filesystem is over the high threshold");
        sweep.outcome.wanted_bytes = Some(wanted);
        // A dry run has removed nothing by age: those images come first again, and their bytes are not what is wanted.
        let again = match execution {
            Execution::Delete => 0,
            Execution::DryRun => sweep.outcome.freed_bytes(),
        };
        let goal = Goal::Free(wanted.saturating_add(again));
        let Some(mut collection) = self.phase(goal, execution, sweep).await else { return };
        sweep.outcome.leave_out_of(&mut collection);
        sweep.troubles.extend(GcError::of_space(wanted, disk, &collection));
        self.add(GcPhase { reason: GcReason::Space, collection }, execution, sweep);
    }

    /// What the kubelet does under disk pressure (`DeleteUnusedImages`): no target, and the minimum age still holds.
    async fn everything(&self, execution: Execution, sweep: &mut Sweep) {
        match self.disk().await {
            Ok(disk) => sweep.outcome.used_percent = disk.used_percent(),
            Err(error) => return sweep.troubles.push(error),
        }
        if let Some(collection) = self.phase(Goal::Everything, execution, sweep).await {
            self.add(GcPhase { reason: GcReason::Unused, collection }, execution, sweep);
        }
    }

    /// `None`, and a trouble, if the image service did not collect.
    async fn phase(&self, goal: Goal, execution: Execution, sweep: &mut Sweep) -> Option<Collection> {
        let wish = Wish { goal, min_age: self.policy.min_age() };
        let collected = self.images.service().collect(&sweep.turn, wish, execution).await;
        collected.map_err(|source| sweep.troubles.push(GcError::Collect { source })).ok()
    }

    fn add(&self, phase: GcPhase, execution: Execution, sweep: &mut Sweep) {
        if execution == Execution::Delete {
            self.note(phase.reason, &phase.collection);
        }
        sweep.outcome.phases.push(phase);
    }

    /// Logs and counts what went.
    fn note(&self, reason: GcReason, collection: &Collection) {
        for gone in &collection.gone {
            tracing::info!(image = %gone.image, bytes = gone.freed_bytes, reason = reason.as_str(), "image removed");
        }
        self.images.metrics().collected(reason, collection);
    }

    async fn disk(&self) -> Result<Disk, GcError> {
        let usage = self.images.service().fs_info().await.map_err(|source| GcError::Usage { source })?;
        Disk::of(&usage).ok_or(GcError::NoCapacity)
    }

    /// The kubelet prunes after the space phase alone: a record whose image went by age stays until the disk is full. A record without
    /// image vouches for who may use one that comes back; so it goes after either.
    async fn prune_records(&self) {
        if let Err(error) = self.images.prune_records().await {
            // They stay until the next time: whoever meets one has to prove his right once more.
            tracing::warn!(error = crate::text::with_causes(&error), "pull records were not pruned");
        }
    }

    fn tell(&self, reason: &'static str, message: String) {
        self.images.events().record(&self.node, EventKind::Warning, reason, message);
    }
}

impl<S> std::fmt::Debug for ImageGc<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageGc").field("policy", &self.policy).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
