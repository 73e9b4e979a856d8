//! Mounted images against what other tools unpack.
//!
//! In: images that other tools made, or that we made so that other tools can read them. Out: trees, compared entry by entry.
//! A harness: whatever fails here panics, and so fails the test that uses it. Needs root.

#![forbid(unsafe_code)]
#![expect(clippy::missing_panics_doc, reason = "every function of the harness may panic, as the head says")]
#![expect(clippy::expect_used, clippy::panic, reason = "whatever fails here fails the test that uses it")]

pub mod distribution;
pub mod hostile;
pub mod node;
pub mod oddities;
pub mod tools;
pub mod tree;
