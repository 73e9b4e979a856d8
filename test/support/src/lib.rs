//! Fakes and fixtures for the tests of all crates: a registry that misbehaves on command, images made in memory.
//!
//! In: what a test says. Out: real bytes over real sockets and files. Panics where a fixture cannot be made.
//! Never linked into the product. Imports `api` and `base` alone of this workspace.

mod crypto;
pub mod image;
pub mod registry;

pub use crypto::install_crypto;
