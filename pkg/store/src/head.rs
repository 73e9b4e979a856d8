//! What lists and sums need of an image, in a small row of its own: records tell every layer, and to read those of ten thousand images
//! takes longer than all else that a list does.
//!
//! These rows follow from the records, are written with them, and are made right at each start, as links are.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::rows::{HEADS, Write};
use crate::{ImageKind, ImageRecord, Result};

/// The part of an image's record that lists and sums need: a row by the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Head {
    pub(crate) kind: ImageKind,
    pub(crate) size: u64,
    pub(crate) index_bytes: u64,
    pub(crate) pulled_at: i64,
}

// === impl Head ===

impl From<&ImageRecord> for Head {
    fn from(image: &ImageRecord) -> Self {
        Self { kind: image.kind, size: image.size, index_bytes: image.index_bytes, pulled_at: image.pulled_at }
    }
}

// === impl Write ===

impl Write<'_> {
    /// Makes all heads those that are `expected`. Most of the time they are, and nothing is written.
    pub(crate) fn set_heads(&self, mut expected: HashMap<String, Head>) -> Result<()> {
        for (key, head) in self.scan::<Head>(HEADS)? {
            match (expected.get(&key), head) {
                (Some(expected_head), Ok(head)) if *expected_head == head => drop(expected.remove(&key)),
                (Some(_), _) => {}
                (None, _) => self.remove(HEADS, &key)?,
            }
        }
        expected.iter().try_for_each(|(key, head)| self.put(HEADS, key, head))
    }
}
