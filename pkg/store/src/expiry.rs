//! What pulls left unfinished, and nobody came back for.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use imagevol_api::oci::Digest;
use imagevol_base::collection::NodeTime;
use serde::{Deserialize, Serialize};

use crate::content::{Content, ContentKey};
use crate::deletion::{Removed, take_content};
use crate::durable::{self, entries};
use crate::ingest;
use crate::links::IMAGES_OF;
use crate::rows::{CONTENT, DOWNLOADS};
use crate::store::Store;
use crate::{Result, StoreError};

/// Content that no image names, and downloads that nobody goes on with, are kept this long: a node that was down over night
/// resumes, a pod that never comes back does not fill the disk.
const UNFINISHED_TTL: Duration = Duration::from_hours(24);

/// A download as it was seen first: a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Download {
    /// What tells one state of its bytes from another.
    written: String,
    /// When, in the node's own time.
    seen: NodeTime,
}

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
    /// Drops references that have come to their end; deletes content that no image names and no pull holds, and downloads that nobody
    /// goes on with, once they are a day old in the node's own time: the wall clock may say what it likes. For
    /// the daemon to call now and then; opening the store does the same. [`Removed`] does not count downloads,
    /// nor files in quarantine, which go as well.
    pub fn expire(&self) -> Result<Removed> {
        self.inner.freeing(|| self.expire_once())
    }

    fn expire_once(&self) -> Result<Removed> {
        self.keep_time()?;
        self.drop_expired_rows()?;
        let removed = self.expire_content()?;
        self.drop_downloads(Downloads::Stale)?;
        self.expire_quarantine()?;
        Ok(removed)
    }

    /// Deletes content that no image names and no pull counts on, however young it is, if it is one of these blobs or was unpacked from
    /// one: an image that did not fit leaves the parts of it that did.
    pub fn drop_unfinished(&self, blobs: &[Digest]) -> Result<Removed> {
        self.inner.freeing(|| {
            let mut keys = HashSet::new();
            for blob in blobs {
                keys.extend(self.find_content(blob)?.into_iter().map(|found| found.key));
            }
            self.drop_content(|key, _| keys.contains(key))
        })
    }

    pub(crate) fn expire_content(&self) -> Result<Removed> {
        let now = self.now();
        self.drop_content(|_, content| is_old(content.stored, now))
    }

    /// Of content that no image names and no pull counts on.
    fn drop_content(&self, goes: impl Fn(&ContentKey, &Content) -> bool) -> Result<Removed> {
        let leases = self.inner.leases.lock();
        let write = self.rows().write()?;
        let mut removed = Removed::default();
        let used = write.linked_keys(IMAGES_OF)?;
        for (key, content) in write.all::<Content>(CONTENT)?.into_iter().filter(|(key, _)| !used.contains(key)) {
            match key.parse::<ContentKey>() {
                Ok(key) if goes(&key, &content) && !leases.contains_key(&key) => {
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

    /// A download is as old as its last bytes, which have no time but the wall clock's: so its age counts from when they were seen
    /// first, here.
    pub(crate) fn drop_downloads(&self, which: Downloads) -> Result<()> {
        let (now, known) = (self.now(), self.rows().all::<Download>(DOWNLOADS)?);
        let known: BTreeMap<String, Download> = known.into_iter().collect();
        let mut seen = BTreeMap::new();
        for dir in entries(&self.inner.layout.ingest_dir())? {
            let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // Somebody writes to it: it is not stale.
            let Some(_claim) = self.inner.claims.try_take(&name) else { continue };
            let download = Download { written: last_written(&dir)?, seen: now };
            let download = known.get(&name).filter(|known| known.written == download.written).unwrap_or(&download);
            let useless = || which == Downloads::Useless && (name.starts_with(ingest::PACKED) || is_empty(&dir));
            if !is_understood(&dir) || is_old(download.seen, now) || useless() {
                tracing::info!(path = %dir.display(), "deleting an unfinished download");
                durable::remove_dir(&dir)?;
            } else {
                seen.insert(name, download.clone());
            }
        }
        self.remember_downloads(&known, &seen)
    }

    /// Killed before the commit: those that were seen first now are seen first later.
    fn remember_downloads(&self, known: &BTreeMap<String, Download>, seen: &BTreeMap<String, Download>) -> Result<()> {
        if known == seen {
            return Ok(());
        }
        let write = self.rows().write()?;
        for name in known.keys().filter(|name| !seen.contains_key(*name)) {
            write.remove(DOWNLOADS, name)?;
        }
        for (name, download) in seen {
            write.put(DOWNLOADS, name, download)?;
        }
        self.inner.clock.keep(&write, Duration::ZERO)?;
        write.commit()
    }
}

fn is_old(since: NodeTime, now: NodeTime) -> bool {
    now.since(since) > UNFINISHED_TTL
}

fn is_understood(dir: &Path) -> bool {
    std::fs::read_to_string(dir.join("format")).is_ok_and(|format| format == ingest::FORMAT)
}

/// Killed before the first byte, or between the row of what had come whole and the end of its directory.
fn is_empty(dir: &Path) -> bool {
    std::fs::symlink_metadata(dir.join("data")).map_or(true, |data| data.len() == 0)
}

/// What tells that bytes came in: how many there are and when they came, by a clock that may be wrong; of a download without bytes,
/// when it was made.
fn last_written(dir: &Path) -> Result<String> {
    let mark = |path: PathBuf| {
        let file = std::fs::symlink_metadata(&path).map_err(StoreError::io("stat", &path))?;
        Ok(format!("{} {}.{:09}", file.len(), file.mtime(), file.mtime_nsec()))
    };
    mark(dir.join("data")).or_else(|_: StoreError| mark(dir.to_owned()))
}
