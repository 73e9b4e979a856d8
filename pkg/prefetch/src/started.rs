//! Remembers which rows were given an end. Blocking.
//!
//! A row that ended leaves nothing behind, and its list still names the image: without this memory the daemon would pull it again
//! after a restart, to keep it for nobody once more.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use imagevol_base::Holder;
use serde::{Deserialize, Serialize};

use crate::item::Key;

/// The file, in the state directory.
const FILE: &str = "prefetch.json";
/// Its form. One of another form is not read.
const VERSION: u32 = 1;

/// The memory.
#[derive(Debug, Clone)]
pub(crate) struct Started {
    path: PathBuf,
    keys: BTreeSet<Key>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    started: Vec<String>,
}

// === impl Started ===

impl Started {
    /// Reads the file. What cannot be read is as if nothing had ever ended: the images are kept once more.
    pub(crate) fn open(state_dir: &Path) -> Self {
        let path = state_dir.join(FILE);
        let keys = read(&path).unwrap_or_else(|error| {
            tracing::warn!(%error, path = %path.display(), "it is not known which prefetched images were used");
            BTreeSet::new()
        });
        Self { path, keys }
    }

    pub(crate) fn keys(&self) -> &BTreeSet<Key> {
        &self.keys
    }

    /// Notes a key, or drops it; on disk before it returns.
    pub(crate) fn set(&mut self, key: &Key, is_started: Noted) -> io::Result<()> {
        let mut keys = self.keys.clone();
        let changed = match is_started {
            Noted::Started => keys.insert(key.clone()),
            Noted::Forgotten => keys.remove(key),
        };
        if changed {
            write(&self.path, &keys)?;
            self.keys = keys;
        }
        Ok(())
    }
}

/// What is noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Noted {
    /// The row has an end.
    Started,
    /// It never had one.
    Forgotten,
}

fn read(path: &Path) -> io::Result<BTreeSet<Key>> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        other => other?,
    };
    let content: Content = serde_json::from_slice(&bytes)?;
    if content.version != VERSION {
        return Err(io::Error::other(format!("version {} is not known", content.version)));
    }
    let keys = content.started.iter().filter_map(|key| Key::of(&key.parse::<Holder>().ok()?));
    Ok(keys.collect())
}

fn write(path: &Path, keys: &BTreeSet<Key>) -> io::Result<()> {
    let started = keys.iter().map(|key| key.holder().to_string()).collect();
    let bytes = serde_json::to_vec(&Content { version: VERSION, started })?;
    let (parent, new) = (path.parent().unwrap_or(Path::new(".")), path.with_extension("json.new"));
    // Killed before it is in place: the old content stands, and the next write begins the new file anew.
    let mut file = File::create(&new)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(written: &str) -> Key {
        Key::new("models".parse().unwrap(), written)
    }

    #[test]
    fn it_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let mut started = Started::open(dir.path());
        started.set(&key("a"), Noted::Started).unwrap();
        started.set(&key("b"), Noted::Started).unwrap();
        started.set(&key("a"), Noted::Forgotten).unwrap();
        assert_eq!(Started::open(dir.path()).keys(), &BTreeSet::from([key("b")]));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_read_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for content in ["", "{", r#"{"version":2,"started":[]}"#, r#"{"version":1,"started":[],"x":1}"#] {
            std::fs::write(dir.path().join(FILE), content).unwrap();
            assert!(Started::open(dir.path()).keys().is_empty(), "{content}");
        }
        std::fs::write(dir.path().join(FILE), r#"{"version":1,"started":["pin/x","prefetch/../x"]}"#).unwrap();
        assert!(Started::open(dir.path()).keys().is_empty());
    }
}
