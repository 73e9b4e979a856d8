//! What a collection is asked for, and what it did.

use std::collections::{BTreeMap, BTreeSet};

use imagevol_api::oci::Digest;
use imagevol_base::collection::{Collected, Collection, Execution, Stayed};

/// A collection by command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcRequest {
    /// How much is to go.
    pub scope: GcScope,
    /// Whether it goes.
    pub execution: Execution,
}

/// How much a collection takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GcScope {
    /// What the thresholds and the maximum age ask for now.
    Policy,
    /// Every image that nobody needs and that has the minimum age.
    Everything,
}

/// Why an image went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GcReason {
    /// Nobody had used it for longer than the maximum age.
    Age,
    /// The disk was too full.
    Space,
    /// Somebody asked for all that nobody needs.
    Unused,
    /// A pull needed the room.
    Admission,
}

/// What a collection did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcOutcome {
    /// How full the file system was before, in percent.
    pub used_percent: u8,
    /// Bytes that the space phase was to free; `None` if the disk was not full enough, or all was to go.
    pub wanted_bytes: Option<u64>,
    /// What was done, in this order. Empty if nothing was to be done.
    pub phases: Vec<GcPhase>,
}

/// One part of a collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcPhase {
    /// Why its images went.
    pub reason: GcReason,
    /// What it did. An image is in `gone` of one phase only.
    pub collection: Collection,
}

// === impl GcReason ===

impl GcReason {
    /// For people and programs: `age`, `space`, `unused` or `admission`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Space => "space",
            Self::Unused => "unused",
            Self::Admission => "admission",
        }
    }
}

// === impl GcOutcome ===

impl GcOutcome {
    /// The images that went, with the reason, in the order in which they did.
    pub fn gone(&self) -> impl Iterator<Item = (GcReason, &Collected)> {
        self.phases.iter().flat_map(|phase| phase.collection.gone.iter().map(|gone| (phase.reason, gone)))
    }

    /// The images that stay, as the last phase saw them. Empty if there was none.
    pub fn stayed(&self) -> &[Stayed] {
        self.phases.last().map(|phase| phase.collection.stayed.as_slice()).unwrap_or_default()
    }

    /// The images that should have gone and did not, with what the last try ran into.
    pub fn failed(&self) -> BTreeMap<&Digest, &str> {
        let all = self.phases.iter().flat_map(|phase| &phase.collection.failed);
        let mut failed: BTreeMap<&Digest, &str> = all.map(|(image, why)| (image, why.as_str())).collect();
        for (_, gone) in self.gone() {
            failed.remove(&gone.image);
        }
        failed
    }

    /// Bytes that were freed, or would be.
    pub fn freed_bytes(&self) -> u64 {
        self.gone().map(|(_, gone)| gone.freed_bytes).sum()
    }

    /// Takes out of `collection` what is gone already.
    pub(super) fn leave_out_of(&self, collection: &mut Collection) {
        let gone: BTreeSet<&Digest> = self.gone().map(|(_, gone)| &gone.image).collect();
        collection.gone.retain(|next| !gone.contains(&next.image));
    }
}
