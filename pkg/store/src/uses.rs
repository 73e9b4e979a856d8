//! When images were first seen and last used: what decides which of those that nobody needs goes first.

use std::time::Duration;

use imagevol_api::oci::Digest;
use imagevol_base::collection::NodeTime;
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::rows::{USES, Write};
use crate::store::now;
use crate::{Reference, Result, references};

/// How far the time of last use of an image that somebody holds may be behind. A kill makes it look unused by that much longer.
pub(crate) const SLACK: Duration = Duration::from_mins(1);

/// A moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Moment {
    /// In the node's own time: for ages.
    pub time: NodeTime,
    /// What the wall clock said, seconds since 1970: for people, no decision hangs on it.
    pub at: i64,
}

/// When an image was seen and used: its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Use {
    /// When it came to the node.
    pub first_seen: Moment,
    /// When somebody held it last; one who holds it now may have been seen a minute ago.
    pub last_used: Option<Moment>,
}

// === impl Moment ===

impl Moment {
    /// A moment for a row, now.
    pub(crate) fn stamp(clock: &Clock) -> Self {
        Self { time: clock.stamp(), at: now() }
    }
}

// === impl Use ===

impl Use {
    /// What orders images by how long nobody has used them.
    pub fn last(&self) -> NodeTime {
        self.last_used.unwrap_or(self.first_seen).time
    }
}

// === impl Write ===

impl Write<'_> {
    /// Writes that an image was seen first; again is no change.
    pub(crate) fn see(&self, clock: &Clock, image: &Digest) -> Result<()> {
        let key = image.to_string();
        if self.get::<Use>(USES, &key)?.is_none() {
            self.put(USES, &key, &Use { first_seen: Moment::stamp(clock), last_used: None })?;
            clock.keep(self, Duration::ZERO)?;
        }
        Ok(())
    }

    /// Writes that images are used at this moment, and says which that is.
    pub(crate) fn stamp_used<'i>(&self, clock: &Clock, images: impl IntoIterator<Item = &'i Digest>) -> Result<Moment> {
        let moment = Moment::stamp(clock);
        for image in images {
            let key = image.to_string();
            // An image without a row has gone meanwhile.
            if let Some(row) = self.get::<Use>(USES, &key)? {
                self.put(USES, &key, &Use { last_used: Some(moment), ..row })?;
            }
        }
        clock.keep(self, Duration::ZERO)?;
        Ok(moment)
    }

    /// Writes that whatever a row keeps was used until now.
    pub(crate) fn stamp_kept(&self, clock: &Clock, row: &Reference) -> Result<()> {
        let images = references::kept_by(self, row)?;
        if images.is_empty() { Ok(()) } else { self.stamp_used(clock, &images).map(drop) }
    }
}
