//! Fakes and fixtures for the tests of all crates: a registry and an API server that misbehave on command, images made in memory,
//! an image service and mounts that are tables.
//!
//! In: what a test says. Out: real bytes over real sockets and files. Panics where a fixture cannot be made.
//! Never linked into the product. Imports `api`, `base`, `mount` and `cri` alone of this workspace.

pub mod apiserver;
mod crypto;
pub mod csi_controller;
pub mod daemon;
pub mod docker_registry;
pub mod image;
pub mod image_service;
pub mod kubelet;
pub mod mounts;
pub mod registry;

pub use crypto::install_crypto;
