//! The version of the tables and of the directory, and the way from an earlier one.

use imagevol_base::collection::NodeTime;

use crate::rows::{IMAGES, META, Missing, Rows, USES, Write};
use crate::uses::{Moment, Use};
use crate::{ImageRecord, Result, StoreError};

/// Version of the tables and of the directory: 2 knows when images were used, and what is pinned.
pub(crate) const FORMAT: u64 = 2;

/// Before [`FORMAT`]: the same rows, without the tables that came with it.
const WITHOUT_USES: u64 = 1;

// === impl Rows ===

impl Rows {
    /// Brings an earlier version up to date. One that is not known is refused before anything of it is touched, and one that is only
    /// read stays what it is.
    pub(crate) fn check_format(&self, missing: Missing) -> Result<()> {
        let write = self.write()?;
        let unknown = |found| StoreError::Format { found, known: FORMAT };
        match (write.get::<u64>(META, "format")?, missing) {
            (Some(FORMAT), _) | (Some(WITHOUT_USES), Missing::Refuse) => Ok(()),
            (Some(WITHOUT_USES), Missing::Make) => {
                add_uses(&write)?;
                write.make_tables()?;
                write.put(META, "format", &FORMAT)?;
                // Killed before this: it is of the earlier version, and nothing has happened.
                write.commit()
            }
            (found, _) => Err(unknown(found.unwrap_or(0))),
        }
    }
}

/// Images that are here are seen first when the node begins to count its time.
fn add_uses(write: &Write<'_>) -> Result<()> {
    for (key, image) in write.scan::<ImageRecord>(IMAGES)? {
        // What cannot be read is dropped a moment later.
        let Ok(image) = image else { continue };
        let first_seen = Moment { time: NodeTime::default(), at: image.pulled_at };
        write.put(USES, &key, &Use { first_seen, last_used: None })?;
    }
    Ok(())
}
