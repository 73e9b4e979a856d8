//! The database: tables, and reading and writing their rows.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use imagevol_api::oci::Digest;
use redb::{
    Database, MultimapTableDefinition, MultimapValue, ReadOnlyTable, ReadableDatabase as _, ReadableMultimapTable as _,
    ReadableTable, TableDefinition, TableError, TableHandle as _,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::database::Growth;
use crate::{Result, StoreError, database, durable};

/// Rows of JSON by a text key: few and small, and an operator can read them.
pub(crate) type Table = TableDefinition<'static, &'static str, &'static [u8]>;

/// Keys of one table by a key of another.
pub(crate) type Links = MultimapTableDefinition<'static, &'static str, &'static str>;

/// Manifest digest -> [`crate::ImageRecord`].
pub(crate) const IMAGES: Table = TableDefinition::new("images");
/// Manifest digest -> [`crate::head::Head`] of the same image.
pub(crate) const HEADS: Table = TableDefinition::new("heads");
/// `name:tag` or `name@digest` -> manifest digest.
pub(crate) const NAMES: Table = TableDefinition::new("names");
/// [`crate::ContentKey`] -> [`crate::Content`].
pub(crate) const CONTENT: Table = TableDefinition::new("content");
/// Digest of a compressed layer -> diffID.
pub(crate) const DIFF_IDS: Table = TableDefinition::new("diff-ids");
/// [`imagevol_base::Holder`] -> [`crate::Reference`].
pub(crate) const REFERENCES: Table = TableDefinition::new("references");
/// Manifest digest -> [`crate::Use`].
pub(crate) const USES: Table = TableDefinition::new("uses");
/// [`imagevol_api::oci::ImagePattern`] -> [`crate::pins::Pin`].
pub(crate) const PINS: Table = TableDefinition::new("pins");
/// Directory of a download under way -> [`crate::expiry::Download`].
pub(crate) const DOWNLOADS: Table = TableDefinition::new("downloads");
/// Manifest digest -> [`crate::quarantine::Retired`].
pub(crate) const RETIRED: Table = TableDefinition::new("retired");
/// `format` -> version of these tables and of the directory; `clock` -> when the node's time was read last; `scrub` -> how far that
/// has come.
pub(crate) const META: Table = TableDefinition::new("meta");

/// The tables that make up the store.
const TABLES: [Table; 11] = [IMAGES, HEADS, NAMES, CONTENT, DIFF_IDS, REFERENCES, USES, PINS, DOWNLOADS, RETIRED, META];

/// The open database. One transaction writes at a time; reading goes on beside it.
#[derive(Debug)]
pub(crate) struct Rows {
    path: PathBuf,
    /// Held by the transaction that writes. Nobody takes the lock of the leases while holding it.
    writer: Mutex<()>,
    /// `None` after the database failed and could not be opened anew.
    database: Mutex<Option<Database>>,
    pub(crate) growth: Arc<Growth>,
}

/// All rows as they were at one moment.
pub(crate) struct Snapshot(redb::ReadTransaction);

/// A transaction that writes; dropped without commit, nothing has happened.
pub(crate) struct Write<'r> {
    transaction: redb::WriteTransaction,
    _only: MutexGuard<'r, ()>,
}

/// Whether a database may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// It is made.
    Make,
    /// It is an error.
    Refuse,
}

/// A row, or why it cannot be read.
pub(crate) type Scanned<T> = (String, Result<T>);

// === impl Rows ===

impl Rows {
    /// Opens the database, or makes it. The caller has the state directory for itself.
    pub(crate) fn open(path: &Path, missing: Missing) -> Result<Self> {
        if missing == Missing::Make && durable::length(path)?.is_none() {
            Self::make(path)?;
        }
        let growth = Arc::default();
        let rows = Self::new(path, database::open(path, &growth)?, growth);
        rows.check_format()?;
        Ok(rows)
    }

    fn new(path: &Path, database: Database, growth: Arc<Growth>) -> Self {
        Self { path: path.to_owned(), writer: Mutex::default(), database: Mutex::new(Some(database)), growth }
    }

    /// Made under another name: redb cannot open what it was killed over in its first moments.
    fn make(path: &Path) -> Result<()> {
        let draft = path.with_extension("draft");
        // Killed up to the rename: a draft that the next start deletes.
        durable::remove_file(&draft)?;
        let growth = Arc::default();
        let rows = Self::new(&draft, database::make(&draft, &growth)?, growth);
        rows.write_format()?;
        drop(rows);
        durable::publish(&draft, path)
    }

    fn write_format(&self) -> Result<()> {
        let write = self.write()?;
        write.put(META, "format", &crate::format::FORMAT)?;
        write.make_tables()?;
        write.commit()
    }

    /// One row.
    pub(crate) fn get<T: DeserializeOwned>(&self, table: Table, key: &str) -> Result<Option<T>> {
        self.read(|snapshot| snapshot.get(table, key))
    }

    /// All rows in order of their keys.
    pub(crate) fn all<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<(String, T)>> {
        self.read(|snapshot| snapshot.all(table))
    }

    /// The keys that a key is linked to, in order.
    pub(crate) fn linked(&self, links: Links, key: &str) -> Result<Vec<String>> {
        self.read(|snapshot| snapshot.linked(links, key))
    }

    /// Reads, a second time if the database had to be opened anew. Not to be called with a [`Write`] in hand.
    pub(crate) fn read<T>(&self, read: impl Fn(&Snapshot) -> Result<T>) -> Result<T> {
        let once = || self.snapshot().and_then(|snapshot| read(&snapshot));
        match once() {
            Err(error) if error.is_latched() => {
                self.reopen(&lock(&self.writer))?;
                once()
            }
            result => result,
        }
    }

    fn snapshot(&self) -> Result<Snapshot> {
        let database = lock(&self.database);
        Ok(Snapshot(database.as_ref().ok_or_else(closed)?.begin_read()?))
    }

    /// Begins a transaction; one at a time.
    pub(crate) fn write(&self) -> Result<Write<'_>> {
        let only = lock(&self.writer);
        let begin = || Ok(lock(&self.database).as_ref().ok_or_else(closed)?.begin_write()?);
        let transaction = match begin() {
            Err(error) if StoreError::is_latched(&error) => {
                self.reopen(&only)?;
                begin()?
            }
            result => result?,
        };
        Ok(Write { transaction, _only: only })
    }

    /// redb refuses everything after a read or write has failed, a full disk among the reasons, until it is opened anew.
    fn reopen(&self, _no_writer: &MutexGuard<'_, ()>) -> Result<()> {
        let mut database = lock(&self.database);
        tracing::warn!(path = %self.path.display(), "opening the database anew after a failure");
        // The old one holds the lock of the file until it is dropped.
        *database = None;
        *database = Some(database::open(&self.path, &self.growth)?);
        Ok(())
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// One row.
    pub(crate) fn get<T: DeserializeOwned>(&self, table: Table, key: &str) -> Result<Option<T>> {
        self.table(table)?.map_or(Ok(None), |rows| get_in(&rows, table, key))
    }

    /// All rows in order of their keys.
    pub(crate) fn all<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<(String, T)>> {
        every(self.scan(table)?)
    }

    /// All rows, those too that cannot be read.
    pub(crate) fn scan<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<Scanned<T>>> {
        self.table(table)?.map_or_else(|| Ok(Vec::new()), |rows| scan_in(&rows, table))
    }

    /// The keys of all rows.
    pub(crate) fn keys(&self, table: Table) -> Result<Vec<String>> {
        let Some(rows) = self.table(table)? else { return Ok(Vec::new()) };
        rows.iter()?.map(|row| Ok(row?.0.value().to_owned())).collect()
    }

    /// Whether there is such a table: a store of an earlier version may not have it.
    pub(crate) fn has(&self, table: Table) -> Result<bool> {
        Ok(self.table(table)?.is_some())
    }

    /// The images of the store, by the keys of their rows.
    pub(crate) fn digests_of_images(&self) -> Result<Vec<Digest>> {
        let wrong = |key: String| StoreError::Key { table: name(IMAGES), key };
        self.keys(IMAGES)?.into_iter().map(|key| key.parse().map_err(|_| wrong(key))).collect()
    }

    /// A table; `None` in a store of a version that did not have it.
    fn table(&self, table: Table) -> Result<Option<ReadOnlyTable<&'static str, &'static [u8]>>> {
        match self.0.open_table(table) {
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            opened => Ok(Some(opened?)),
        }
    }

    /// The keys that a key is linked to, in order.
    pub(crate) fn linked(&self, links: Links, key: &str) -> Result<Vec<String>> {
        values(self.0.open_multimap_table(links)?.get(key)?)
    }

    /// All links.
    pub(crate) fn all_links(&self, links: Links) -> Result<Vec<(String, String)>> {
        let mut pairs = Vec::new();
        for entry in self.0.open_multimap_table(links)?.iter()? {
            let (key, linked) = entry?;
            pairs.extend(values(linked)?.into_iter().map(|value| (key.value().to_owned(), value)));
        }
        Ok(pairs)
    }
}

// === impl Write ===

impl Write<'_> {
    /// One row, as this transaction sees it.
    pub(crate) fn get<T: DeserializeOwned>(&self, table: Table, key: &str) -> Result<Option<T>> {
        get_in(&self.transaction.open_table(table)?, table, key)
    }

    /// All rows, as this transaction sees them.
    pub(crate) fn all<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<(String, T)>> {
        every(self.scan(table)?)
    }

    /// All rows, those too that cannot be read.
    pub(crate) fn scan<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<Scanned<T>>> {
        scan_in(&self.transaction.open_table(table)?, table)
    }

    /// The keys of all rows.
    pub(crate) fn keys(&self, table: Table) -> Result<HashSet<String>> {
        let rows = self.transaction.open_table(table)?;
        rows.iter()?.map(|row| Ok(row?.0.value().to_owned())).collect()
    }

    /// All rows whose keys begin with `prefix`.
    pub(crate) fn all_below<T: DeserializeOwned>(&self, table: Table, prefix: &str) -> Result<Vec<(String, T)>> {
        let mut found = Vec::new();
        for row in self.transaction.open_table(table)?.range(prefix..)? {
            let (key, value) = row?;
            if !key.value().starts_with(prefix) {
                break;
            }
            found.push((key.value().to_owned(), decode(table, key.value(), value.value())?));
        }
        Ok(found)
    }

    /// Makes the tables that are not there.
    pub(crate) fn make_tables(&self) -> Result<()> {
        for table in TABLES {
            self.transaction.open_table(table)?;
        }
        for links in crate::links::ALL {
            self.transaction.open_multimap_table(links)?;
        }
        Ok(())
    }

    /// Writes a row, in place of what was there.
    pub(crate) fn put<T: Serialize>(&self, table: Table, key: &str, value: &T) -> Result<()> {
        let bytes = serde_json::to_vec(value).map_err(|source| StoreError::Row {
            table: name(table),
            key: key.to_owned(),
            source,
        })?;
        self.put_bytes(table, key, &bytes)
    }

    /// Writes the bytes of a row.
    pub(crate) fn put_bytes(&self, table: Table, key: &str, bytes: &[u8]) -> Result<()> {
        self.transaction.open_table(table)?.insert(key, bytes)?;
        Ok(())
    }

    /// Deletes a row; absent is deleted.
    pub(crate) fn remove(&self, table: Table, key: &str) -> Result<()> {
        self.transaction.open_table(table)?.remove(key)?;
        Ok(())
    }

    /// The keys that a key is linked to, in order.
    pub(crate) fn linked(&self, links: Links, key: &str) -> Result<Vec<String>> {
        values(self.transaction.open_multimap_table(links)?.get(key)?)
    }

    /// The keys that are linked to anything.
    pub(crate) fn linked_keys(&self, links: Links) -> Result<HashSet<String>> {
        let links = self.transaction.open_multimap_table(links)?;
        links.iter()?.map(|entry| Ok(entry?.0.value().to_owned())).collect()
    }

    /// Links a key to another; again is no change.
    pub(crate) fn link(&self, links: Links, key: &str, to: &str) -> Result<()> {
        self.transaction.open_multimap_table(links)?.insert(key, to)?;
        Ok(())
    }

    /// Takes a link back; absent is no change.
    pub(crate) fn unlink(&self, links: Links, key: &str, from: &str) -> Result<()> {
        self.transaction.open_multimap_table(links)?.remove(key, from)?;
        Ok(())
    }

    /// Makes the links of a table those that are `expected`. Most of the time they are, and nothing is written.
    pub(crate) fn set_links(&self, links: Links, expected: &HashSet<(String, String)>) -> Result<()> {
        let mut table = self.transaction.open_multimap_table(links)?;
        let (mut known, mut wrong) = (0, Vec::new());
        for entry in table.iter()? {
            let (key, linked) = entry?;
            for value in values(linked)? {
                let link = (key.value().to_owned(), value);
                if expected.contains(&link) { known += 1 } else { wrong.push(link) }
            }
        }
        for (key, value) in &wrong {
            table.remove(key.as_str(), value.as_str())?;
        }
        if known < expected.len() {
            for (key, value) in expected {
                table.insert(key.as_str(), value.as_str())?;
            }
        }
        Ok(())
    }

    /// Makes it durable: redb syncs before this returns. Killed before, nothing of it has happened.
    pub(crate) fn commit(self) -> Result<()> {
        Ok(self.transaction.commit()?)
    }
}

fn get_in<T: DeserializeOwned>(
    rows: &impl ReadableTable<&'static str, &'static [u8]>,
    table: Table,
    key: &str,
) -> Result<Option<T>> {
    rows.get(key)?.map(|row| decode(table, key, row.value())).transpose()
}

fn scan_in<T: DeserializeOwned>(
    rows: &impl ReadableTable<&'static str, &'static [u8]>,
    table: Table,
) -> Result<Vec<Scanned<T>>> {
    let mut found = Vec::new();
    for row in rows.iter()? {
        let (key, value) = row?;
        found.push((key.value().to_owned(), decode(table, key.value(), value.value())));
    }
    Ok(found)
}

fn every<T>(rows: Vec<Scanned<T>>) -> Result<Vec<(String, T)>> {
    rows.into_iter().map(|(key, row)| Ok((key, row?))).collect()
}

fn values(linked: MultimapValue<'_, &'static str>) -> Result<Vec<String>> {
    linked.map(|value| Ok(value?.value().to_owned())).collect()
}

fn decode<T: DeserializeOwned>(table: Table, key: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|source| StoreError::Row { table: name(table), key: key.to_owned(), source })
}

/// The name of a table, as a constant for errors.
pub(crate) fn name(table: Table) -> &'static str {
    let names = [
        "images",
        "heads",
        "names",
        "content",
        "diff-ids",
        "references",
        "uses",
        "pins",
        "downloads",
        "retired",
        "meta",
    ];
    let mut known = TABLES.iter().zip(names);
    known.find(|(known, _)| known.name() == table.name()).map_or("unknown", |(_, name)| name)
}

fn closed() -> StoreError {
    StoreError::Database(Box::new(redb::Error::DatabaseClosed))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
