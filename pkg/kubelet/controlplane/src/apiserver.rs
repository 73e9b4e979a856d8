//! The API server of the cluster that this node is part of: pods of the node in, events out, secrets on demand.
//!
//! [`ApiServer`] is the one door; its requests are bounded in time and its errors are typed. Whoever uses it must work while the server is away:
//! the watch of pods keeps what it knew and says since when, events wait in a bounded queue, secrets that were read a short while ago go on serving.
//! No type of the client library leaves this module, and no answer that may hold a secret is logged or quoted in an error: the library would do both.

mod access;
mod fault;
mod object;
mod pods;
pub(crate) mod post;
mod retry;
mod secrets;
mod server;
pub mod webhook;

pub use access::{Access, ConnectError};
pub use fault::{RequestError, RequestFault};
pub use pods::{NodePods, watch_pods};
pub use post::Posting;
pub use secrets::{ClusterPullSecrets, ManifestPullSecrets};
pub use server::ApiServer;

#[cfg(test)]
pub(crate) mod testing;
