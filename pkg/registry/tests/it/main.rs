//! The client against a registry over real sockets.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod auth;
mod blob;
mod harness;
mod listing;
mod mirror;
mod redirect;
mod resolve;
mod tls;
