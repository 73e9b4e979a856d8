//! What pulls left unfinished, and nobody came back for.

use std::path::{Path, PathBuf};

use crate::content::{Content, ContentKey};
use crate::deletion::{Removed, take_content};
use crate::durable::{self, entries};
use crate::ingest;
use crate::links::IMAGES_OF;
use crate::rows::CONTENT;
use crate::store::{Store, now};
use crate::{Result, StoreError};

/// Content that no image names, and downloads that nobody goes on with, are kept this long: a node that was down over night
/// resumes, a pod that never comes back does not fill the disk.
const UNFINISHED_TTL_SECONDS: i64 = 24 * 60 * 60;

/// Which downloads go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Downloads {
    /// Those that are old or not understood.
    Stale,
    /// At start, when none is under way: those too that cannot be gone on with.
    Useless,
}

// === impl Store ===

impl Store {
    /// Deletes content that no image names and no pull holds, and downloads that nobody goes on with, once they are a day old. For
    /// the daemon to call now and then; opening the store does the same. [`Removed`] does not count downloads.
    pub fn expire(&self) -> Result<Removed> {
        let removed = self.expire_content()?;
        self.drop_downloads(Downloads::Stale)?;
        Ok(removed)
    }

    pub(crate) fn expire_content(&self) -> Result<Removed> {
        let leases = self.inner.leases.lock();
        let write = self.rows().write()?;
        let mut removed = Removed::default();
        for (key, content) in write.all::<Content>(CONTENT)? {
            let unused = write.linked(IMAGES_OF, &key)?.is_empty();
            match key.parse::<ContentKey>() {
                Ok(key) if unused && is_old(content.stored_at, now()) && !leases.contains_key(&key) => {
                    take_content(&write, &key, &mut removed)?;
                }
                Ok(_) | Err(_) => {}
            }
        }
        if !removed.content.is_empty() {
            // Killed after this: files without rows, deleted at start.
            write.commit()?;
            self.unlink(&removed)?;
        }
        Ok(removed)
    }

    pub(crate) fn drop_downloads(&self, which: Downloads) -> Result<()> {
        for dir in entries(&self.inner.layout.ingest_dir())? {
            let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // Somebody writes to it: it is not stale.
            let Some(_claim) = self.inner.claims.try_take(&name) else { continue };
            let useless = which == Downloads::Useless && name.starts_with(ingest::PACKED);
            if useless || !is_understood(&dir) || is_old(last_written(&dir)?, now()) {
                tracing::info!(path = %dir.display(), "deleting an unfinished download");
                durable::remove_dir(&dir)?;
            }
        }
        Ok(())
    }
}

/// In the far future is old too: the clock was wrong then, and nobody can say when.
fn is_old(time: i64, now: i64) -> bool {
    now.saturating_sub(time).saturating_abs() > UNFINISHED_TTL_SECONDS
}

fn is_understood(dir: &Path) -> bool {
    std::fs::read_to_string(dir.join("format")).is_ok_and(|format| format == ingest::FORMAT)
}

/// When bytes came in last, seconds since 1970; of a download without bytes, when it was made.
fn last_written(dir: &Path) -> Result<i64> {
    let time = |path: PathBuf| {
        let modified = std::fs::symlink_metadata(&path).and_then(|file| file.modified());
        modified.map_err(StoreError::io("stat", &path))
    };
    let modified = time(dir.join("data")).or_else(|_| time(dir.to_owned()))?;
    Ok(jiff::Timestamp::try_from(modified).map_or(i64::MIN, jiff::Timestamp::as_second))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::now(0, false)]
    #[case::a_day_ago(-86_400, false)]
    #[case::longer_ago(-86_401, true)]
    #[case::clock_was_set_back_a_little(60, false)]
    #[case::clock_was_years_ahead(315_360_000, true)]
    fn is_old_after_a_day(#[case] stored: i64, #[case] old: bool) {
        assert_eq!(is_old(1_000_000_000 + stored, 1_000_000_000), old);
    }

    #[test]
    fn the_ends_of_time_are_old() {
        assert!(is_old(i64::MIN, 5) && is_old(i64::MAX, -5));
    }
}
