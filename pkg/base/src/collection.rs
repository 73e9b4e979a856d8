//! Garbage collection in words that store, image service and policy share.

use std::time::Duration;

use imagevol_api::oci::Digest;
use serde::{Deserialize, Serialize};

use crate::Holder;

mod turns;

pub use turns::{NotYet, Turn, Turns};

/// Seconds that this node has run, as far as they were counted: what ages are measured in. The wall clock may jump by years, and a
/// node that is switched off uses no image; neither makes an image older.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeTime(pub u64);

/// What a collection is to achieve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Images go that nobody has used for longer than this.
    UnusedFor(Duration),
    /// So many bytes are freed, those images first that were used least recently.
    Free(u64),
    /// Whatever nobody needs goes.
    Everything,
}

/// A collection: what it is to achieve, and what it must leave alone besides images in use and pinned ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// What is to be achieved.
    pub goal: Goal,
    /// Images that were first seen more recently stay (`imageMinimumGCAge`).
    pub min_age: Duration,
}

/// Whether a collection is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Execution {
    /// It is.
    Delete,
    /// It only says what it would do.
    DryRun,
}

/// What a collection did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collection {
    /// Images that went, in this order.
    pub gone: Vec<Collected>,
    /// Images that stay, each with the reason.
    pub stayed: Vec<Stayed>,
    /// Images that should have gone, and why they did not: other ones went all the same.
    pub failed: Vec<(Digest, String)>,
}

/// An image that went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collected {
    /// Its manifest digest.
    pub image: Digest,
    /// The names that led to it.
    pub names: Vec<String>,
    /// Bytes that its removal freed on disk: what others share is not among them.
    pub freed_bytes: u64,
    /// How long nobody had used it; for one that was never used, how long it was here.
    pub unused_for: Duration,
}

/// An image that stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stayed {
    /// Its manifest digest.
    pub image: Digest,
    /// The names that lead to it.
    pub names: Vec<String>,
    /// Why.
    pub because: Stay,
}

/// Why an image stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stay {
    /// Somebody uses it, waits for it, or was promised it.
    Held(Vec<Holder>),
    /// It is pinned, by these patterns.
    Pinned(Vec<String>),
    /// It is mounted, and no row says for whom.
    Mounted,
    /// It was first seen, or last used, too recently: so much longer it stays.
    Young(Duration),
    /// The goal is met without it.
    NotNeeded,
}

// === impl NodeTime ===

impl NodeTime {
    /// How long ago `earlier` was; nothing, if it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }
}

// === impl Collection ===

impl Collection {
    /// Bytes that were freed, or would be.
    pub fn freed_bytes(&self) -> u64 {
        self.gone.iter().map(|image| image.freed_bytes).sum()
    }
}
