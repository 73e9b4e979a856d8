//! The CSI door: Identity and Node services of the driver `csi.imagevol.dev`, and its registration with the kubelet.
//!
//! In: calls of the kubelet of this node, on unix sockets that only root may use. Out: wishes to the volume manager, and what became of
//! them, as gRPC codes that make the kubelet do the right thing next. Never pulls, never mounts, never shows a secret.
//! Floor 6: imports `volumemanager`, `images`, `cri`, `mount`, `base`, `api`.

#![forbid(unsafe_code)]

mod answer;
mod attributes;
mod authority;
mod claims;
mod counted;
mod deadline;
mod door;
mod driver;
mod identity;
mod metrics;
mod node;
mod prefetch;
mod publisher;
mod refusal;
mod registration;
mod request;
mod shown;
mod socket;
mod stats;
mod sweep;

pub use driver::{Parts, PodLookup, StartError, services, start};
pub use metrics::Metrics;
pub use prefetch::expected;
pub use publisher::Publisher;
pub use socket::SocketError;
