//! The real daemon and the real command line, with real mounts, against registries that misbehave on command.
//!
//! Needs root: each test has a mount namespace, directories and registries of its own.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests: a failure is a failed test"
)]

mod cli;
mod collection;
mod csi;
mod csi_sanity;
mod failure;
mod full_disk;
mod integrity;
mod lab;
mod lifetimes;
mod manifest;
mod manifests;
mod metrics;
mod offline;
mod oracle;
mod sharing;
mod soak;
mod tenancy;
mod unfit;
