//! The embedded image service: pulls over the registry into the store, and mounts from it.
//!
//! In: references, credentials and holders. Out: images by manifest digest, detached mounts, rows that keep images.
//! It takes no decision of policy: whether to pull and with which credential comes from above.
//! Floor 4: imports `layout`, `registry`, `store`, `layer`, `cri`, `mount`, `base`, `api`.

#![forbid(unsafe_code)]

mod admission;
mod budget;
pub mod chunks;
mod collect;
mod config;
mod downloads;
mod error;
mod export;
mod fetch;
mod import;
mod integrity;
mod layers;
mod patience;
mod per_key;
mod plan;
mod pull;
mod pulls;
mod right;
mod scrub;
mod service;
mod staging;
mod stores;
mod take;

pub use export::{Export, ExportedImage};
pub use import::{Import, Imported, Kept};
pub use integrity::{CorruptContent, Integrity};
pub use plan::{LayerPlan, PlanError, plan};
pub use pulls::RunningPull;
pub use scrub::ScrubSettings;
pub use service::{Concurrency, EmbeddedImageService, Limits, Parts, SurvivorOf};
pub use stores::AdditionalImageStore;
