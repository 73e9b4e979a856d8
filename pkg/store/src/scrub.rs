//! How far the parts have been held against their digests, round after round. The oldest look comes first: a round goes through all
//! parts in order, and the next run of the daemon goes on where this one was.

use serde::{Deserialize, Serialize};

use crate::part::Part;
use crate::rows::META;
use crate::store::Store;
use crate::{Result, StoreError};

/// Key of its row.
const ROW: &str = "scrub";

/// Where a scrub is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScrubPosition {
    /// The part that was checked last; none before the first of a round.
    last: Option<String>,
    /// When the last round ended, seconds since 1970.
    pub finished: Option<i64>,
}

// === impl ScrubPosition ===

impl ScrubPosition {
    /// After a part of a round.
    #[must_use]
    pub fn after(&self, part: &Part) -> Self {
        Self { last: Some(part.to_string()), finished: self.finished }
    }

    /// At the end of a round.
    #[must_use]
    pub fn end(now: i64) -> Self {
        Self { last: None, finished: Some(now) }
    }

    /// Whether a round has begun and not ended.
    pub fn is_within(&self) -> bool {
        self.last.is_some()
    }

    /// The parts that are left of a round over all of them, in order.
    pub fn rest_of(&self, parts: Vec<Part>) -> Vec<Part> {
        let last = self.last.as_ref().and_then(|last| last.parse::<Part>().ok());
        parts.into_iter().filter(|part| last.as_ref().is_none_or(|last| part > last)).collect()
    }
}

// === impl Store ===

impl Store {
    /// Where the scrub was. One that cannot be read begins anew.
    pub fn scrub_position(&self) -> Result<ScrubPosition> {
        match self.rows().get(META, ROW) {
            Err(StoreError::Row { source, .. }) => {
                tracing::warn!(error = %source, "the scrub's row cannot be read: it begins anew");
                Ok(ScrubPosition::default())
            }
            position => Ok(position?.unwrap_or_default()),
        }
    }

    /// Keeps where the scrub is. Killed before: some parts are checked again.
    pub fn keep_scrub_position(&self, position: &ScrubPosition) -> Result<()> {
        let write = self.rows().write()?;
        write.put(META, ROW, position)?;
        write.commit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_on_after_the_last_part() {
        let part = |kind: &str, digit: &str| format!("{kind}/sha256:{}", digit.repeat(64)).parse::<Part>().unwrap();
        let mut parts =
            vec![part("image", "1"), part("layer", "2"), part("blob", "3"), part("layer", "1"), part("blob", "1")];
        parts.sort();
        let begin = ScrubPosition::default();
        assert_eq!(begin.rest_of(parts.clone()), parts);
        let position = begin.after(&parts[2]);
        assert!(position.is_within());
        assert_eq!(position.rest_of(parts.clone()), parts[3..]);
        // A part that has gone meanwhile leaves its place behind.
        assert_eq!(begin.after(&part("blob", "9")).rest_of(parts.clone()).len(), 3);
        assert_eq!(ScrubPosition::end(7).rest_of(parts.clone()), parts);
    }
}
