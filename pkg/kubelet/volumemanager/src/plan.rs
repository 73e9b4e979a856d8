//! The decision: what to do next, from what should be and what is. Pure and total.

use tokio::time::Instant;

use crate::state::{ActualStateOfWorld, DesiredStateOfWorld, Have, Key, Operations};

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Mount a volume that is not there.
    Mount(Key),
    /// Mount a volume of which something may be there; set-up is idempotent.
    Remount(Key),
    /// Unmount a volume that nobody wants.
    Unmount(Key),
    /// Clear away what an earlier run, or a failed attempt, left of a volume that nobody wants.
    CleanOrphan(Key),
}

/// What to do now. Unmounts come before mounts, as in the kubelet's reconciler (pkg/kubelet/volumemanager/reconciler).
///
/// - While a source of pods has not been read, nothing is unmounted: its pods may be the ones that want it.
/// - A volume with an operation under way, or inside its back-off, is left alone.
pub fn plan(
    want: &DesiredStateOfWorld,
    have: &ActualStateOfWorld,
    operations: &Operations,
    now: Instant,
) -> Vec<Action> {
    let unmounts = have.volumes.iter().filter(|(key, _)| want.all_sources_ready && !want.volumes.contains_key(*key));
    let unmounts = unmounts.map(|(key, have)| match have {
        Have::Mounted(_) => Action::Unmount(key.clone()),
        Have::Uncertain { .. } => Action::CleanOrphan(key.clone()),
    });
    let mounts = want.volumes.keys().filter_map(|key| match have.volumes.get(key) {
        Some(Have::Mounted(_)) => None,
        Some(Have::Uncertain { .. }) => Some(Action::Remount(key.clone())),
        None => Some(Action::Mount(key.clone())),
    });
    unmounts.chain(mounts).filter(|action| !operations.is_busy(action.key(), now)).collect()
}

// === impl Action ===

impl Action {
    /// The volume.
    pub fn key(&self) -> &Key {
        match self {
            Self::Mount(key) | Self::Remount(key) | Self::Unmount(key) | Self::CleanOrphan(key) => key,
        }
    }

    /// Whether it takes something away.
    pub fn removes(&self) -> bool {
        matches!(self, Self::Unmount(_) | Self::CleanOrphan(_))
    }
}

#[cfg(test)]
mod tests;
