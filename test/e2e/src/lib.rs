//! The whole on a real Kubernetes cluster: what the tests share.
//!
//! In: a cluster, named by the environment. Out: namespaces, images, pods, and what the cluster and the driver say of them. Everything
//! goes through `kubectl` and `skopeo`, as a user would do it; whatever fails here panics, and so fails the test that uses it.
//!
//! | Variable | What |
//! |---|---|
//! | `IMAGEVOL_E2E` | `1` runs the tests; all else skips them, said aloud |
//! | `KUBECONFIG` | the cluster, with the driver of `deploy/` in it |
//! | `IMAGEVOL_CLUSTER_REGISTRY` | a registry that test, driver and container runtime reach by this name; it has `busybox:1` |
//! | `IMAGEVOL_CLUSTER_PRIVATE_REGISTRY` | another, of user `alice` with password `secret` |
//! | `IMAGEVOL_CLUSTER` | root of a cluster of `hack/local-up-cluster.sh`; without it, tests that look at the node's own files and sockets are left out |
//! | `IMAGEVOL_E2E_KEEP` | `1` keeps the namespaces of failed tests |
//!
//! `make e2e` sets them all.

#![forbid(unsafe_code)]
#![expect(clippy::missing_panics_doc, reason = "every function of the harness may panic, as the head says")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a harness: whatever fails here fails the test that uses it"
)]

mod cluster;
mod driver;
mod events;
pub mod images;
mod kubectl;
mod loopback;
pub mod manifests;
mod namespace;
mod wait;

pub use cluster::Cluster;
pub use driver::Driver;
pub use events::{Event, Told, told};
pub use kubectl::{Kubectl, is_asked_for};
pub use loopback::LoopbackRegistry;
pub use namespace::Namespace;
pub use wait::{SOON, until};
