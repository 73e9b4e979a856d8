//! The decision: what to do next, from what should be and what is. Pure and total.

use tokio::time::Instant;

use imagevol_volume::Key;

use crate::state::{ActualStateOfWorld, DesiredStateOfWorld, Have, Operations};

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Set a volume up of which nothing is there.
    Mount(Key),
    /// Set a volume up of which something may be there; that is idempotent.
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
    let unmounts = have.volumes.iter().filter(|(key, _)| want.is_unwanted(key));
    let unmounts = unmounts.map(|(key, have)| match have {
        Have::Mounted(_) => Action::Unmount(key.clone()),
        Have::Uncertain { .. } => Action::CleanOrphan(key.clone()),
    });
    let mounts = want.volumes.iter().filter_map(|(key, wanted)| match have.volumes.get(key) {
        Some(have) if have.reaches(wanted.goal) => None,
        Some(_) => Some(Action::Remount(key.clone())),
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
