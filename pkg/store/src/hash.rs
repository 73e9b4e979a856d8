//! Digests of files of the store, in flat memory.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use imagevol_api::oci::{Algorithm, Digest};
use imagevol_base::Digester;

use crate::{Result, StoreError};

/// Bytes that are read at once: enough that calls do not count.
const CHUNK: usize = 256 * 1024;

/// SHA-256 of a whole file.
pub(crate) fn hash_file(path: &Path) -> Result<Digest> {
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    hash(Algorithm::Sha256, file, path)
}

/// Digest of what a reader holds.
pub(crate) fn hash(algorithm: Algorithm, mut reader: impl Read, path: &Path) -> Result<Digest> {
    let mut digester = Digester::new(algorithm);
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = reader.read(&mut buffer).map_err(StoreError::io("read", path))?;
        if count == 0 {
            return Ok(digester.finish());
        }
        digester.update(buffer.get(..count).unwrap_or_default());
    }
}
