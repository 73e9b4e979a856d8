//! The client against a registry over real sockets.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests fail the test, and say what they skip")]

mod auth;
mod blob;
mod harness;
mod listing;
mod mirror;
mod presence;
mod real;
mod redirect;
mod resolve;
mod tls;
