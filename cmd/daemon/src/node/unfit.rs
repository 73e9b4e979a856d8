//! A node of a cluster whose kernel or disk cannot mount images.
//!
//! A driver that ended would be restarted for ever and say nothing to whoever looks at the cluster. So it stays and registers nothing: its
//! log, its readiness and an event on the node tell why, and pods that need it wait as on a node without it.

use anyhow::Context as _;
use imagevol_api::config::ImagevolConfiguration;
use imagevol_base::{EventKind, EventRecorder as _};
use imagevol_controlplane::ControlPlane;
use imagevol_controlplane::events::node_ref;
use imagevol_mount::NoBackend;

/// `reason` of the event on the node; a kubelet has none.
const REASON: &str = "ImageVolumesUnsupported";

/// Why the node is of no use.
#[derive(Debug)]
pub(crate) struct Unfit {
    why: String,
    /// Posts the event.
    _control: ControlPlane,
}

/// Says it. Without a kubelet there is nobody to wait for, and it is an error.
pub(super) fn stay(
    config: &ImagevolConfiguration,
    node_name: &str,
    missing: NoBackend,
    control: &ControlPlane,
) -> anyhow::Result<Unfit> {
    if config.csi.is_none() {
        return Err(missing).context("images cannot be mounted on this node");
    }
    let why = format!("images cannot be mounted on this node: {missing}");
    tracing::error!(kernel = super::version().kernel, "{why}; the CSI driver is not registered");
    control.recorder().record(&node_ref(node_name), EventKind::Warning, REASON, why.clone());
    Ok(Unfit { why, _control: control.clone() })
}

// === impl Unfit ===

impl Unfit {
    /// Why the node cannot serve pods.
    pub(crate) fn why(&self) -> &str {
        &self.why
    }
}
