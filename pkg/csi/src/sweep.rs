//! Gives up volumes that nobody will ever unpublish.
//!
//! A kubelet that got a final error does not unpublish, and one that lost its state does not know what to: the pod's directory goes, and
//! the wish for its image would stay for ever.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use imagevol_api::names::PodUid;
use imagevol_base::{PODS, Target, blocking};
use imagevol_volumemanager::DoorState;
use tokio_util::sync::CancellationToken;

use crate::driver::PodLookup;
use crate::publisher::Publisher;

/// How often it looks: an image that is kept a minute too long does no harm.
const LOOK: Duration = Duration::from_mins(1);

/// Looks for volumes without a pod.
pub(crate) struct Sweep {
    pub(crate) root_dir: PathBuf,
    pub(crate) volumes: Arc<dyn Publisher>,
    pub(crate) pods: PodLookup,
}

// === impl Sweep ===

impl Sweep {
    /// Looks from time to time, until `stop`. Not at once: the API server has not told of the pods yet, and the kubelet may be away.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut look = tokio::time::interval_at(tokio::time::Instant::now() + LOOK, LOOK);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = look.tick() => self.look().await,
            }
        }
    }

    /// The list comes first: a kubelet makes the pod's directory before it asks for a volume, so one that is listed and has no directory
    /// has lost it. A pod that the API server tells of may have none yet.
    async fn look(&self) {
        let unmounted: Vec<_> = self.unmounted();
        let pods: BTreeSet<_> = unmounted.iter().map(|target| target.pod.clone()).collect();
        let root_dir = self.root_dir.clone();
        let gone = blocking(move || without_directory(&root_dir, pods)).await;
        for target in unmounted.iter().filter(|target| gone.contains(&target.pod)) {
            tracing::info!(pod = %target.pod, volume = %target.volume, "the pod has gone without unpublishing; giving up its volume");
            self.volumes.give_up(target);
        }
    }

    fn unmounted(&self) -> Vec<Target> {
        let is_waiting = |state: &DoorState| match state {
            DoorState::Waiting | DoorState::Pulling | DoorState::Present(_) | DoorState::Failed(_) => true,
            DoorState::Mounted(_) | DoorState::Leaving(_) => false,
        };
        let listed = self.volumes.list().into_iter();
        let waiting = listed.filter(|(_, volume)| is_waiting(&volume.state)).map(|(target, _)| target);
        waiting.filter(|target| (self.pods)(&target.pod).is_none()).collect()
    }
}

/// Those pods that have no directory. One that cannot be looked at is taken as there.
fn without_directory(root_dir: &Path, pods: BTreeSet<PodUid>) -> BTreeSet<PodUid> {
    let is_gone = |pod: &PodUid| {
        let found = std::fs::symlink_metadata(root_dir.join(PODS).join(pod.as_str()));
        found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    };
    pods.into_iter().filter(is_gone).collect()
}
