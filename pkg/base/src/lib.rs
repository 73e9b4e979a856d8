//! What every part of the node agent stands on: supervision of tasks, events, hashes, the set of pods, single flight, back-off.
//!
//! In: nothing from outside the process. Out: small types with no policy of their own.
//! Does no network I/O, and of the disk only says when a directory or the mount table changes. Floor 1: imports `api`.

#![forbid(unsafe_code)]

mod backoff;
mod blocking;
pub mod collection;
mod digester;
mod directory_watch;
pub mod events;
mod file_identity;
mod holder;
mod mount_table_watch;
mod pods;
mod process;
pub mod progress;
mod single_flight;
pub mod size;
mod supervisor;
mod target;
pub mod volumes;

pub use backoff::KeyedBackoff;
pub use blocking::blocking;
pub use digester::Digester;
pub use directory_watch::{DirectoryWatch, Happened};
pub use events::{EventKind, EventRecorder};
pub use file_identity::FileIdentity;
pub use holder::{Holder, HolderError};
pub use mount_table_watch::MountTableWatch;
pub use pods::PodSet;
pub use process::ProcessGroup;
pub use single_flight::SingleFlight;
pub use supervisor::Supervisor;
pub use target::{PODS, Target, TargetError, VOLUMES};
