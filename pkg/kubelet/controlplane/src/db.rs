//! `status.redb`: what the control plane remembers over a restart.
//!
//! | Table | Key | Value |
//! |---|---|---|
//! | `meta` | `version` | version of this layout, a number |
//! | `events` | `<namespace>/<name>` | core/v1 Event, JSON |
//! | `pods` | UID | [`PodRow`], JSON |
//!
//! The file is mode 0600 and locked by the one process that has it open. Every function here blocks.

use std::borrow::Borrow;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, TableError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use imagevol_api::corev1::{Event, Pod};

/// Memory for pages of the file. Rows are read once, at start, and written a few at a time: what is kept saves next to nothing. redb's own
/// default of 1 GiB keeps the whole file, and with an hour of events that is the daemon's largest piece.
const CACHE_BYTES: usize = 4 << 20;

/// Layout of this file. A newer one is refused: an older program would misread it.
const VERSION: u64 = 1;
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const EVENTS: Table = TableDefinition::new("events");
const PODS: Table = TableDefinition::new("pods");

type Table = TableDefinition<'static, &'static str, &'static [u8]>;

/// `Result` of this module.
pub(crate) type Result<T, E = DbError> = std::result::Result<T, E>;

/// The database. Clones share it.
#[derive(Clone)]
pub struct StatusDb {
    path: Arc<Path>,
    /// `None` after a failure: redb refuses everything after a read or write has failed, a full disk among the reasons, until it is opened
    /// anew, which the next use does.
    db: Arc<Mutex<Option<Database>>>,
}

/// A pod as it was last known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PodRow {
    /// Name of the manifest file that it came from.
    pub(crate) file: String,
    /// The pod with its status.
    pub(crate) pod: Pod,
}

/// Rows to write and rows to remove, in one transaction.
#[derive(Debug)]
pub(crate) struct Changes<T> {
    pub(crate) put: Vec<(String, T)>,
    pub(crate) remove: Vec<String>,
}

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The file could not be opened or created.
    #[error("cannot open {path:?}")]
    OpenFile {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file is no database, is damaged, or another process has it open.
    #[error("cannot open the database {path:?}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the database said.
        source: redb::DatabaseError,
    },
    /// A newer program wrote the file.
    #[error("the database has layout {found}, this program knows {VERSION}")]
    Newer {
        /// Its layout.
        found: u64,
    },
    /// A read failed.
    #[error("cannot read the status database")]
    Read(#[source] redb::Error),
    /// A write failed; nothing of it is there.
    #[error("cannot write the status database")]
    Write(#[source] redb::Error),
    /// An object could not be written as JSON.
    #[error("cannot encode {key:?}")]
    Encode {
        /// Key of the row.
        key: String,
        /// What the encoder said.
        source: serde_json::Error,
    },
}

// === impl StatusDb ===

impl StatusDb {
    /// Opens the file, making it if it is not there. A file left by a killed process is repaired by redb to its last commit.
    pub fn open(path: &Path) -> Result<Self> {
        let db = Self { path: path.into(), db: Arc::default() };
        db.check_version()?;
        Ok(db)
    }

    /// Every event.
    pub(crate) fn events(&self) -> Result<Vec<(String, Event)>> {
        self.rows(EVENTS)
    }

    /// Every pod, by UID.
    pub(crate) fn pods(&self) -> Result<Vec<(String, PodRow)>> {
        self.rows(PODS)
    }

    /// Writes and removes events.
    pub(crate) fn change_events(&self, changes: &Changes<Event>) -> Result<()> {
        self.change::<_, Event>(EVENTS, changes)
    }

    /// Writes and removes pods.
    pub(crate) fn change_pods(&self, changes: &Changes<Arc<PodRow>>) -> Result<()> {
        self.change::<_, PodRow>(PODS, changes)
    }

    fn check_version(&self) -> Result<()> {
        let found = self.with(DbError::Write, version)?;
        if found > VERSION { Err(DbError::Newer { found }) } else { Ok(()) }
    }

    /// The rows of a table. A row that cannot be read is logged and left out: it may not keep the node from starting.
    fn rows<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<(String, T)>> {
        let raw = self.with(DbError::Read, |db| raw_rows(db, table))?;
        Ok(raw.into_iter().filter_map(|(key, value)| decode(key, &value)).collect())
    }

    fn change<T: Borrow<R>, R: Serialize>(&self, table: Table, changes: &Changes<T>) -> Result<()> {
        let put = changes.put.iter().map(|(key, row)| encode(key, row.borrow())).collect::<Result<Vec<_>>>()?;
        self.with(DbError::Write, |db| write(db, table, &put, &changes.remove))
    }

    /// As a transaction that fails does.
    #[cfg(test)]
    pub(crate) fn close(&self) {
        let failed = self.with(DbError::Write, |_| Err::<(), _>(redb::Error::PreviousIo));
        assert!(matches!(failed, Err(DbError::Write(redb::Error::PreviousIo))));
    }

    /// One transaction at a time.
    fn with<T>(
        &self,
        failed: fn(redb::Error) -> DbError,
        transaction: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T> {
        let mut kept = self.db.lock().unwrap_or_else(PoisonError::into_inner);
        let db = kept.take().map_or_else(|| open_file(&self.path), Ok)?;
        let done = transaction(&db).map_err(failed)?;
        *kept = Some(db);
        Ok(done)
    }
}

impl std::fmt::Debug for StatusDb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StatusDb")
    }
}

fn open_file(path: &Path) -> Result<Database> {
    let file = private_file(path).map_err(|source| DbError::OpenFile { path: path.to_owned(), source })?;
    // A kill inside leaves an empty or half-made file, which the next start completes: redb writes its header last.
    FileBackend::new(file)
        .and_then(|backend| Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend))
        .map_err(|source| DbError::Open { path: path.to_owned(), source })
}

fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn version(db: &Database) -> Result<u64, redb::Error> {
    match known_version(db)? {
        Some(known) => Ok(known),
        None => write_version(db),
    }
}

/// Only read: a disk that is full when the daemon starts takes no write.
fn known_version(db: &Database) -> Result<Option<u64>, redb::Error> {
    match db.begin_read()?.open_table(META) {
        Ok(meta) => Ok(meta.get("version")?.map(|row| row.value())),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn write_version(db: &Database) -> Result<u64, redb::Error> {
    let transaction = db.begin_write()?;
    transaction.open_table(META)?.insert("version", VERSION)?;
    // A kill before the commit leaves no version row: the next start writes it again.
    transaction.commit()?;
    Ok(VERSION)
}

fn raw_rows(db: &Database, table: Table) -> Result<Vec<(String, Vec<u8>)>, redb::Error> {
    let rows = match db.begin_read()?.open_table(table) {
        Ok(rows) => rows,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut raw = Vec::new();
    for row in rows.iter()? {
        let (key, value) = row?;
        raw.push((key.value().to_owned(), value.value().to_owned()));
    }
    Ok(raw)
}

fn write(db: &Database, table: Table, put: &[(&str, Vec<u8>)], remove: &[String]) -> Result<(), redb::Error> {
    let transaction = db.begin_write()?;
    {
        let mut rows = transaction.open_table(table)?;
        for key in remove {
            rows.remove(key.as_str())?;
        }
        for (key, value) in put {
            rows.insert(key, value.as_slice())?;
        }
    }
    // A kill before this line leaves the rows as they were, after it as they should be; redb reclaims the unused pages.
    transaction.commit()?;
    Ok(())
}

fn decode<T: DeserializeOwned>(key: String, value: &[u8]) -> Option<(String, T)> {
    match serde_json::from_slice(value) {
        Ok(row) => Some((key, row)),
        Err(error) => {
            tracing::error!(key, %error, "a row of the status database cannot be read and is left out");
            None
        }
    }
}

fn encode<'k, T: Serialize>(key: &'k str, row: &T) -> Result<(&'k str, Vec<u8>)> {
    let value = serde_json::to_vec(row).map_err(|source| DbError::Encode { key: key.to_owned(), source })?;
    Ok((key, value))
}

#[cfg(test)]
mod tests {
    use imagevol_api::metav1::ObjectMeta;

    use super::*;

    fn row(name: &str) -> PodRow {
        let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
        PodRow { file: "a.yaml".into(), pod: Pod { metadata, ..Pod::default() } }
    }

    #[test]
    fn keeps_rows_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.redb");
        let db = StatusDb::open(&path).unwrap();
        assert_eq!(db.pods().unwrap(), []);
        let put = vec![("u1".to_owned(), row("a").into()), ("u2".to_owned(), row("b").into())];
        db.change_pods(&Changes { put, remove: vec![] }).unwrap();
        db.change_pods(&Changes { put: vec![], remove: vec!["u1".into(), "unknown".into()] }).unwrap();
        drop(db);
        assert_eq!(StatusDb::open(&path).unwrap().pods().unwrap(), [("u2".to_owned(), row("b"))]);
    }

    #[test]
    fn is_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.redb");
        let _db = StatusDb::open(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn belongs_to_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.redb");
        let _db = StatusDb::open(&path).unwrap();
        assert!(matches!(StatusDb::open(&path), Err(DbError::Open { .. })));
    }

    #[test]
    fn refuses_a_newer_layout() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.redb");
        let db = open_file(&path).unwrap();
        let transaction = db.begin_write().unwrap();
        transaction.open_table(META).unwrap().insert("version", VERSION + 1).unwrap();
        transaction.commit().unwrap();
        drop(db);
        assert!(matches!(StatusDb::open(&path), Err(DbError::Newer { found: 2 })));
    }

    #[test]
    fn a_row_that_cannot_be_read_does_not_hide_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let db = StatusDb::open(&dir.path().join("status.redb")).unwrap();
        db.with(DbError::Write, |db| write(db, PODS, &[("bad", b"{".to_vec())], &[])).unwrap();
        db.change_pods(&Changes { put: vec![("u1".into(), row("a").into())], remove: vec![] }).unwrap();
        assert_eq!(db.pods().unwrap().len(), 1);
    }

    #[test]
    fn goes_on_after_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.redb");
        let db = StatusDb::open(&path).unwrap();
        let put = |uid: &str| Changes { put: vec![(uid.to_owned(), row(uid).into())], remove: vec![] };
        db.change_pods(&put("u1")).unwrap();
        db.close();
        let other = StatusDb::open(&path).unwrap();
        assert!(matches!(db.change_pods(&put("u2")), Err(DbError::Open { .. })));
        drop(other);
        db.change_pods(&put("u3")).unwrap();
        drop(db);
        let rows = StatusDb::open(&path).unwrap().pods().unwrap();
        assert_eq!(rows, [("u1".to_owned(), row("u1")), ("u3".to_owned(), row("u3"))]);
    }

    #[test]
    fn refuses_a_file_that_is_no_database() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.redb");
        std::fs::write(&path, "no database").unwrap();
        assert!(matches!(StatusDb::open(&path), Err(DbError::Open { .. })));
    }
}
