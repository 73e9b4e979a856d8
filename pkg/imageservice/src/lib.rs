//! The embedded image service: pulls over the registry into the store, and mounts from it.
//!
//! In: references, credentials and holders. Out: images by manifest digest, detached mounts, rows that keep images.
//! It takes no decision of policy: whether to pull and with which credential comes from above.
//! Floor 3: imports `registry`, `store`, `cri`, `mount`, `base`, `api`.

#![forbid(unsafe_code)]

mod chunks;
mod collect;
mod config;
mod error;
mod fetch;
mod per_key;
mod plan;
mod pull;
mod pulls;
mod service;
mod staging;

pub use plan::{LayerPlan, PlanError, plan};
pub use pulls::RunningPull;
pub use service::{Concurrency, EmbeddedImageService, Limits, Parts, SurvivorOf};
