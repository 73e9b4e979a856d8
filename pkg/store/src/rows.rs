//! The database: tables, and reading and writing their rows.

use std::path::Path;

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, TableHandle as _};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Result, StoreError};

/// Rows of JSON by a text key: few and small, and an operator can read them.
pub(crate) type Table = TableDefinition<'static, &'static str, &'static [u8]>;

/// Manifest digest -> [`crate::ImageRecord`].
pub(crate) const IMAGES: Table = TableDefinition::new("images");
/// `name:tag` or `name@digest` -> manifest digest.
pub(crate) const NAMES: Table = TableDefinition::new("names");
/// [`crate::ContentKey`] -> [`crate::Content`].
pub(crate) const CONTENT: Table = TableDefinition::new("content");
/// Digest of a compressed layer -> diffID.
pub(crate) const DIFF_IDS: Table = TableDefinition::new("diff-ids");
/// [`imagevol_base::Holder`] -> [`crate::Reference`].
pub(crate) const REFERENCES: Table = TableDefinition::new("references");
/// `format` -> version of these tables and of the directory.
const META: Table = TableDefinition::new("meta");

/// Version of the tables and of the directory.
const FORMAT: u64 = 1;

/// The open database.
#[derive(Debug)]
pub(crate) struct Rows {
    database: Database,
}

/// A transaction that writes; dropped without commit, nothing has happened.
pub(crate) struct Write(redb::WriteTransaction);

// === impl Rows ===

impl Rows {
    /// Opens or makes the database. One process at a time.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let database = Database::create(path).map_err(|error| {
            let locked = matches!(error, redb::DatabaseError::DatabaseAlreadyOpen);
            if locked { StoreError::Locked(path.to_owned()) } else { error.into() }
        })?;
        let rows = Self { database };
        rows.check_format()?;
        Ok(rows)
    }

    fn check_format(&self) -> Result<()> {
        let write = self.write()?;
        for table in [IMAGES, NAMES, CONTENT, DIFF_IDS, REFERENCES] {
            write.0.open_table(table)?;
        }
        match write.get::<u64>(META, "format")? {
            Some(FORMAT) => Ok(()),
            Some(found) => Err(StoreError::Format { found, known: FORMAT }),
            None => {
                write.put(META, "format", &FORMAT)?;
                write.commit()
            }
        }
    }

    /// One row.
    pub(crate) fn get<T: DeserializeOwned>(&self, table: Table, key: &str) -> Result<Option<T>> {
        let table_rows = self.database.begin_read()?.open_table(table)?;
        let row = table_rows.get(key)?;
        row.map(|row| decode(table, key, row.value())).transpose()
    }

    /// All rows in order of their keys.
    pub(crate) fn all<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<(String, T)>> {
        let table_rows = self.database.begin_read()?.open_table(table)?;
        let mut rows = Vec::new();
        for row in table_rows.iter()? {
            let (key, value) = row?;
            rows.push((key.value().to_owned(), decode(table, key.value(), value.value())?));
        }
        Ok(rows)
    }

    /// Begins a transaction; one at a time.
    pub(crate) fn write(&self) -> Result<Write> {
        Ok(Write(self.database.begin_write()?))
    }
}

// === impl Write ===

impl Write {
    /// One row, as this transaction sees it.
    pub(crate) fn get<T: DeserializeOwned>(&self, table: Table, key: &str) -> Result<Option<T>> {
        let table_rows = self.0.open_table(table)?;
        let row = table_rows.get(key)?;
        row.map(|row| decode(table, key, row.value())).transpose()
    }

    /// All rows, as this transaction sees them.
    pub(crate) fn all<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<(String, T)>> {
        let table_rows = self.0.open_table(table)?;
        let mut rows = Vec::new();
        for row in table_rows.iter()? {
            let (key, value) = row?;
            rows.push((key.value().to_owned(), decode(table, key.value(), value.value())?));
        }
        Ok(rows)
    }

    /// Writes a row, in place of what was there.
    pub(crate) fn put<T: Serialize>(&self, table: Table, key: &str, value: &T) -> Result<()> {
        let bytes = serde_json::to_vec(value).map_err(|source| StoreError::Row {
            table: name(table),
            key: key.to_owned(),
            source,
        })?;
        self.0.open_table(table)?.insert(key, bytes.as_slice())?;
        Ok(())
    }

    /// Deletes a row; absent is deleted.
    pub(crate) fn remove(&self, table: Table, key: &str) -> Result<()> {
        self.0.open_table(table)?.remove(key)?;
        Ok(())
    }

    /// Makes it durable: redb syncs before this returns. Killed before, nothing of it has happened.
    pub(crate) fn commit(self) -> Result<()> {
        Ok(self.0.commit()?)
    }
}

fn decode<T: DeserializeOwned>(table: Table, key: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|source| StoreError::Row { table: name(table), key: key.to_owned(), source })
}

fn name(table: Table) -> &'static str {
    [IMAGES, NAMES, CONTENT, DIFF_IDS, REFERENCES, META]
        .into_iter()
        .zip(["images", "names", "content", "diff-ids", "references", "meta"])
        .find(|(known, _)| known.name() == table.name())
        .map_or("unknown", |(_, name)| name)
}
