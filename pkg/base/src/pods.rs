//! The pods of this node, as one value.

use std::collections::BTreeMap;
use std::sync::Arc;

use imagevol_api::corev1::Pod;
use imagevol_api::names::PodUid;

/// Every pod that this node should serve. Sources publish a new value for each change.
#[derive(Debug, Clone, Default)]
pub struct PodSet {
    /// By UID.
    pub pods: BTreeMap<PodUid, Arc<Pod>>,
    /// Whether each source has been read at least once: until then an absent pod may still exist.
    pub all_sources_ready: bool,
}
