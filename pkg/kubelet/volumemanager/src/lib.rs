//! Makes the mounted volumes of this node match its pods.
//!
//! In: the set of pods, as a value that changes, and the volumes that other doors want. Out: mounts, through the volume plugins, and a report of what became of each volume.
//! One task owns all state; decisions are the pure [`plan`]; it wakes on change, also of the mount table, and on timers, and polls nothing.
//! Floor 5: imports `volume`, `images`, `cri`, `base`, `api`.

#![forbid(unsafe_code)]

mod doors;
mod lost;
mod manager;
mod metrics;
mod operation;
mod outcome;
mod plan;
mod reconstruct;
mod shown;
mod state;

pub use doors::{DoorState, DoorVolume, PublishError, UnpublishError, VolumeRequest, Volumes};
pub use imagevol_volume::{Door, Key};
pub use manager::{Parts, VolumeManager};
pub use metrics::Metrics;
pub use plan::{Action, plan};
pub use state::{ActualStateOfWorld, Decided, DesiredStateOfWorld, Have, Operation, Operations, Wanted};
