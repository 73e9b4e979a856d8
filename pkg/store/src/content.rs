//! Content: what images are made of, stored once each.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use imagevol_api::oci::{Digest, DigestError};
use imagevol_base::collection::NodeTime;
use serde::{Deserialize, Serialize};

/// Names a piece of content on disk.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContentKey {
    /// Bytes as the registry has them, by their digest.
    Blob(Digest),
    /// An uncompressed layer, by its diffID.
    Layer(Digest),
}

/// A piece of content that is present: its row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Content {
    /// True bytes, without the padding.
    pub size: u64,
    /// When it was stored, seconds since 1970. For people.
    pub stored_at: i64,
    /// When it was stored, in the node's own time: from there it expires while no image names it.
    #[serde(default)]
    pub stored: NodeTime,
    /// For a layer: the digest of its `.idx` file.
    pub index: Option<Digest>,
    /// Bytes of its `.idx` file; 0 for a blob.
    pub index_bytes: u64,
    /// Registries that have given these bytes. To none of them it is a secret that another of its repositories could tell.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub given_by: BTreeSet<String>,
}

/// Keeps content from deletion until an image names it, or the pull ends.
#[derive(Debug)]
pub struct Lease {
    key: ContentKey,
    leases: Leases,
}

/// Content that pulls under way count on. Deletion holds the lock while it works; so nobody drops a lease with a database
/// transaction in hand.
#[derive(Debug, Clone, Default)]
pub(crate) struct Leases(Arc<Mutex<HashMap<ContentKey, usize>>>);

// === impl ContentKey ===

impl ContentKey {
    /// The digest of the stored bytes, without the padding.
    pub fn digest(&self) -> &Digest {
        match self {
            Self::Blob(digest) | Self::Layer(digest) => digest,
        }
    }
}

/// The row's key: `blob/<digest>` or `layer/<diffID>`.
impl fmt::Display for ContentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blob(digest) => write!(f, "blob/{digest}"),
            Self::Layer(diff_id) => write!(f, "layer/{diff_id}"),
        }
    }
}

impl FromStr for ContentKey {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        match text.split_once('/') {
            Some(("blob", digest)) => Ok(Self::Blob(digest.parse()?)),
            Some(("layer", diff_id)) => Ok(Self::Layer(diff_id.parse()?)),
            _ => Err(DigestError::NoAlgorithm),
        }
    }
}

impl Serialize for ContentKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ContentKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

// === impl Content ===

impl Content {
    /// Of `size` bytes. When it was stored is said when its row is written.
    pub(crate) fn of(size: u64) -> Self {
        Self { size, stored_at: 0, stored: NodeTime::default(), index: None, index_bytes: 0, given_by: BTreeSet::new() }
    }

    /// Bytes that its files take.
    pub fn bytes_on_disk(&self) -> u64 {
        crate::durable::padded(self.size) + self.index_bytes
    }
}

// === impl Leases ===

impl Leases {
    /// Takes a lease. Deletion holds the same lock, so that content seen after this stays.
    pub(crate) fn take(&self, key: &ContentKey) -> Lease {
        *self.lock().entry(key.clone()).or_default() += 1;
        Lease { key: key.clone(), leases: self.clone() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, HashMap<ContentKey, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Lease ===

impl Lease {
    /// The content that is kept.
    pub fn key(&self) -> &ContentKey {
        &self.key
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut leases = self.leases.lock();
        if let Some(count) = leases.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                leases.remove(&self.key);
            }
        }
    }
}
