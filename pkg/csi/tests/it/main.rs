//! The driver and a kubelet that calls it, over volumes that are a table.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "whatever fails in a helper fails the test that uses it"
)]

mod abuse;
mod matrix;
mod node;
mod publish;
mod registration;
mod restarts;
mod volumes;
