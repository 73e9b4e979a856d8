//! Where pods come from and where their story goes: manifests in; events and pod status out; pull secrets on demand.
//!
//! In: a directory of manifests, objects from the local API, reports of the volume manager; pods and secrets of the API server, where there is one.
//! Out: the set of pods that this node serves (a watch channel), core/v1 Events and pod statuses kept in `status.redb`, events posted to the API server.
//! Never pulls, never mounts, never calls upwards.
//! Floor 4: imports `images` (one trait), `base`, `api`.

#![forbid(unsafe_code)]

pub mod apiserver;
mod clock;
mod control;
mod db;
pub mod events;
pub mod file;
mod lru;
mod manifest;
mod secrets;
pub mod status;
mod text;
mod world;

pub use clock::WallClock;
pub use control::{ControlPlane, ControlPlaneError, ControlPlaneSettings};
pub use db::{DbError, StatusDb};
pub use manifest::{DryRun, Sent};
