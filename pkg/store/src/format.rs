//! The version of the tables and of the directory, and the way from an earlier one.

use imagevol_base::collection::NodeTime;

use crate::head::Head;
use crate::rows::{IMAGES, META, Rows, USES, Write};
use crate::uses::{Moment, Use};
use crate::{ImageRecord, Result, StoreError};

/// Version of the tables and of the directory: 3 has a small row of each image, for lists.
pub(crate) const FORMAT: u64 = 3;

/// Before [`FORMAT`]: the same rows, without that of each image for lists.
const WITHOUT_HEADS: u64 = 2;

/// Before [`WITHOUT_HEADS`]: without the tables that tell when images were used, and what is pinned.
const WITHOUT_USES: u64 = 1;

// === impl Rows ===

impl Rows {
    /// A version that is not known is refused before anything of it is touched.
    pub(crate) fn check_format(&self) -> Result<()> {
        match self.write()?.get::<u64>(META, "format")? {
            Some(FORMAT | WITHOUT_HEADS | WITHOUT_USES) => Ok(()),
            found => Err(StoreError::Format { found: found.unwrap_or(0), known: FORMAT }),
        }
    }

    /// Brings an earlier version up to date; the database may grow by what is new.
    pub(crate) fn upgrade(&self) -> Result<()> {
        let write = self.write()?;
        let found = write.get::<u64>(META, "format")?;
        if found == Some(FORMAT) {
            return Ok(());
        }
        if found == Some(WITHOUT_USES) {
            add_uses(&write)?;
        }
        add_heads(&write)?;
        write.make_tables()?;
        write.put(META, "format", &FORMAT)?;
        // Killed before this: it is of the earlier version, and nothing has happened.
        write.commit()
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

fn add_heads(write: &Write<'_>) -> Result<()> {
    let images = write.scan::<ImageRecord>(IMAGES)?.into_iter();
    // What cannot be read is dropped a moment later.
    write.set_heads(images.filter_map(|(key, image)| Some((key, Head::from(&image.ok()?)))).collect())
}
