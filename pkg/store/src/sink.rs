//! Where the bytes of an uncompressed layer go: to the file, to the hash, to the parser, in one pass.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use imagevol_api::oci::{Algorithm, Digest};
use imagevol_base::Digester;
use imagevol_layer::{LayerIndex, Parser};

use crate::durable;
use crate::{Result, StoreError};

/// A layer that is being written.
pub(crate) struct TarSink<'a> {
    file: &'a File,
    path: &'a Path,
    digester: Digester,
    parser: Parser,
    size: u64,
    limit: u64,
}

/// A layer that is on disk and synced.
pub(crate) struct Written {
    pub(crate) diff_id: Digest,
    pub(crate) size: u64,
    pub(crate) index: LayerIndex,
}

// === impl TarSink ===

impl<'a> TarSink<'a> {
    pub(crate) fn new(file: &'a File, path: &'a Path, algorithm: Algorithm, limit: u64) -> Self {
        let parser = Parser::new(imagevol_layer::Limits::default());
        Self { file, path, digester: Digester::new(algorithm), parser, size: 0, limit }
    }

    /// Takes bytes that are on disk already, from an earlier try.
    pub(crate) fn replay(&mut self, bytes: &[u8]) -> Result<()> {
        self.size += bytes.len() as u64;
        if self.size > self.limit {
            return Err(StoreError::TooLarge { limit: self.limit });
        }
        self.digester.update(bytes);
        Ok(self.parser.feed(bytes)?)
    }

    /// Takes new bytes. They reach the file last, so that what is refused is not written.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.replay(bytes)?;
        self.file.write_all(bytes).map_err(StoreError::io("write", self.path))
    }

    /// Pads and syncs the file.
    pub(crate) fn finish(self) -> Result<Written> {
        let index = self.parser.finish()?;
        durable::pad_and_sync(self.file, self.size, self.path)?;
        Ok(Written { diff_id: self.digester.finish(), size: self.size, index })
    }
}
