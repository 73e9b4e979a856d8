//! Looks at the mount table after it has changed: what others have unmounted is mounted again.
//!
//! The kubelet finds that out only when it restarts and reconstructs its state: of its volumes those that `RequiresRemount` are set up
//! again as the pod is synced, and images are none of them (pkg/kubelet/volumemanager/cache/actual_state_of_world.go,
//! `MarkRemountRequired`). Running containers keep what they have; one that is restarted would find an empty directory.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use imagevol_base::volumes::SubPathErrors;
use imagevol_volume::{Host, Key, Place, VolumeError};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::VolumeManager;
use crate::lost::{self, Expected};
use crate::shown::Shown;

/// From a change to the look. Whoever takes a node apart unmounts and removes in a row, and is not met in the middle; and where containers
/// come and go all the time, the table is read no more often than this.
const PAUSE: Duration = Duration::from_secs(5);

/// When to look next, and the look under way.
#[derive(Debug, Default)]
pub(super) struct Looks {
    pub(super) due: Option<Instant>,
    running: Option<Look>,
}

/// What a look has found missing.
#[derive(Debug)]
pub(super) struct Looked {
    before: BTreeMap<Key, Expected>,
    gone: Result<BTreeSet<Place>, VolumeError>,
}

#[derive(Debug)]
struct Look {
    expected: BTreeMap<Key, Expected>,
    gone: JoinHandle<Result<BTreeSet<Place>, VolumeError>>,
}

// === impl Looks ===

impl Looks {
    /// The table has changed.
    pub(super) fn notice(&mut self) {
        self.due.get_or_insert_with(|| Instant::now() + PAUSE);
    }

    /// Waits for the end of the look under way; for ever if there is none. Dropping the future loses nothing.
    pub(super) async fn ended(&mut self) -> Looked {
        let Some(look) = &mut self.running else { return std::future::pending().await };
        let gone = (&mut look.gone).await;
        let gone = gone.map_err(VolumeError::from).and_then(|gone| gone);
        let before = self.running.take().map(|look| look.expected).unwrap_or_default();
        Looked { before, gone }
    }

    fn is_due(&self) -> bool {
        self.running.is_none() && self.due.is_some_and(|due| due <= Instant::now())
    }

    fn start(&mut self, host: Host, expected: BTreeMap<Key, Expected>) {
        self.due = None;
        let places = expected.values().flat_map(|expected| expected.places.iter().cloned()).collect();
        let gone = tokio::task::spawn_blocking(move || host.lost(places));
        self.running = Some(Look { expected, gone });
    }
}

// === impl VolumeManager ===

impl VolumeManager {
    pub(super) fn look_at_mounts(&mut self) {
        if self.looks.is_due() {
            let expected = self.expected_mounts();
            self.looks.start(self.parts.host.clone(), expected);
        }
    }

    pub(super) fn looked(&mut self, Looked { before, gone }: Looked) {
        let gone = match gone {
            Ok(gone) => gone,
            Err(error) => {
                tracing::warn!(error = error.with_causes(), "cannot look at what is mounted; trying again");
                return self.looks.notice();
            }
        };
        for key in lost::lost(&before, &self.expected_mounts(), &gone) {
            tracing::warn!(pod = %key.pod, volume = %key.volume, "somebody else has unmounted the volume; mounting it again");
            lost::doubt(&key, &self.want, &mut self.have);
        }
    }

    /// When a look is due that can begin then.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.looks.due.filter(|_| self.looks.running.is_none())
    }

    fn expected_mounts(&self) -> BTreeMap<Key, Expected> {
        let none = SubPathErrors::new();
        let places = |key: &Key| {
            let failed = self.shown.get(key).map_or(&none, Shown::sub_path_errors);
            let pod = self.want.volumes.get(key).map(|wanted| &wanted.pod);
            pod.map(|pod| Place::all_of(key, pod, failed)).unwrap_or_default()
        };
        lost::expected(&self.want, &self.have, &self.operations, &self.ended, places)
    }
}
