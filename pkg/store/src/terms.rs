//! How long a row keeps its image: until it is released, until it expires, or until a pod uses the image.

use std::time::Duration;

use imagevol_base::Holder;
use imagevol_base::collection::NodeTime;
use serde::{Deserialize, Serialize};

use crate::rows::{REFERENCES, Write};
use crate::store::Store;
use crate::{ImageRecord, Reference, Result};

/// How long a row keeps its image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Terms {
    /// It ends so long after it was written or renewed last, in the node's own time. `None`: it does not end by itself.
    pub lasts: Option<Duration>,
    /// What else ends it.
    pub until: Until,
}

/// What ends a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Until {
    /// Its holder gives it up.
    #[default]
    Released,
    /// A volume of a pod is bound to the same image: whom it was fetched for is there.
    Used,
}

// === impl Terms ===

impl Terms {
    /// When a row ends that is written now.
    pub(crate) fn expires(self, now: NodeTime) -> Option<NodeTime> {
        self.lasts.map(|lasts| NodeTime(now.0.saturating_add(lasts.as_secs())))
    }
}

// === impl Reference ===

impl Reference {
    /// Whether it has come to its end: it keeps nothing any more, and is dropped with the next census.
    pub fn is_over(&self, now: NodeTime) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

// === impl Store ===

impl Store {
    /// Drops rows that have come to their end.
    pub(crate) fn drop_expired_rows(&self) -> Result<()> {
        let now = self.inner.clock.now();
        // Most of the time there is none, and nothing is written.
        if !self.references()?.iter().any(|(_, row)| row.is_over(now)) {
            return Ok(());
        }
        let write = self.rows().write()?;
        for (key, row) in write.all::<Reference>(REFERENCES)?.into_iter().filter(|(_, row)| row.is_over(now)) {
            tracing::info!(holder = key, reference = row.reference, "reference has expired");
            write.stamp_kept(&self.inner.clock, &row)?;
            write.remove(REFERENCES, &key)?;
        }
        // Killed before this: they are dropped the next time, and keep nothing meanwhile.
        write.commit()
    }
}

// === impl Write ===

impl Write<'_> {
    /// Drops the rows that were to keep an image until a pod uses it, now that `holder` is bound to it.
    pub(crate) fn drop_used_up(&self, holder: &Holder, image: &ImageRecord) -> Result<()> {
        match holder {
            Holder::Volume { .. } | Holder::Csi(_) => {}
            Holder::Command { .. } | Holder::Prefetch { .. } | Holder::External { .. } => return Ok(()),
        }
        let names = self.names_of(&image.manifest)?;
        for kind in ["external/", "prefetch/"] {
            for (key, row) in self.all_below::<Reference>(REFERENCES, kind)? {
                if row.until == Until::Used && row.keeps(&image.manifest, &names) {
                    self.remove(REFERENCES, &key)?;
                }
            }
        }
        Ok(())
    }
}
