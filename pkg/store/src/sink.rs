//! Where the bytes of a download go, in one pass: to its file, and those of a layer to the hash of its diffID and to the parser.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use imagevol_api::oci::Digest;
use imagevol_base::Digester;
use imagevol_layer::{LayerIndex, Parser};

use crate::room::Lookout;
use crate::store::Inner;
use crate::{Limits, Result, StoreError};

/// A download that is being written.
pub(crate) struct Sink<'a> {
    file: &'a File,
    path: &'a Path,
    size: u64,
    tar: Option<Tar>,
    room: Option<Lookout<&'a Inner>>,
}

/// What a layer's bytes are held against.
struct Tar {
    diff_id: DiffId,
    parser: Parser,
    limit: u64,
}

/// Where a layer's diffID comes from.
pub(crate) enum DiffId {
    /// The tar is the blob, whose digest is verified at the end: one hash serves for both.
    Blob(Digest),
    /// The tar is hashed as it is written.
    Hashed(Digester),
}

/// What a layer's bytes came to.
pub(crate) struct Layer {
    pub(crate) diff_id: Digest,
    pub(crate) index: LayerIndex,
}

// === impl Sink ===

impl<'a> Sink<'a> {
    /// Takes bytes that are kept as they come.
    pub(crate) fn blob(file: &'a File, path: &'a Path) -> Self {
        Self { file, path, size: 0, tar: None, room: None }
    }

    /// Takes the bytes of a tar, of at most `limits.max_layer_bytes`.
    pub(crate) fn layer(file: &'a File, path: &'a Path, diff_id: DiffId, limits: Limits) -> Self {
        let parser = Parser::new(limits.of_layers());
        let tar = Tar { diff_id, parser, limit: limits.max_layer_bytes };
        Self { file, path, size: 0, tar: Some(tar), room: None }
    }

    /// Asks the store for room again and again while it writes.
    pub(crate) fn looking(self, store: &'a Inner) -> Self {
        Self { room: Some(Lookout::of(store)), ..self }
    }

    /// Takes bytes that are on disk already, from an earlier try.
    pub(crate) fn replay(&mut self, bytes: &[u8]) -> Result<()> {
        self.size += bytes.len() as u64;
        let Some(tar) = &mut self.tar else { return Ok(()) };
        if self.size > tar.limit {
            return Err(StoreError::TooLarge { limit: tar.limit });
        }
        if let DiffId::Hashed(digester) = &mut tar.diff_id {
            digester.update(bytes);
        }
        Ok(tar.parser.feed(bytes)?)
    }

    /// Takes new bytes. They reach the file last, so that what is refused is not written.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.replay(bytes)?;
        if let Some(lookout) = &mut self.room {
            lookout.before(bytes.len() as u64, self.size)?;
        }
        // Killed here: what a blob or a plain tar has so far is gone on with; of a compressed layer it is of no use, and start
        // deletes it.
        self.file.write_all(bytes).map_err(StoreError::io("write", self.path))
    }

    /// Bytes in the file; and of a layer what it holds.
    pub(crate) fn finish(self) -> Result<(u64, Option<Layer>)> {
        let Some(tar) = self.tar else { return Ok((self.size, None)) };
        let index = tar.parser.finish()?;
        let diff_id = match tar.diff_id {
            DiffId::Blob(digest) => digest,
            DiffId::Hashed(digester) => digester.finish(),
        };
        Ok((self.size, Some(Layer { diff_id, index })))
    }
}
