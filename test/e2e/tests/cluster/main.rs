//! What users do with the driver on a cluster, and what they see.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure is a failed test")]

mod content;
mod credentials;
mod doors;
mod events;
mod policies;
mod pulls;
