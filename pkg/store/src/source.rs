//! Bytes of a descriptor as they come: counted, hashed, and never more than promised.

use std::io::{self, BufRead, Read};

use imagevol_api::oci::{Algorithm, Digest};
use imagevol_base::Digester;

use crate::{Result, StoreError};

/// A reader that hashes what is read from it.
pub(crate) struct Hashed<R> {
    inner: R,
    digester: Digester,
    count: u64,
}

// === impl Hashed ===

impl<R: BufRead> Hashed<R> {
    pub(crate) fn new(algorithm: Algorithm, inner: R) -> Self {
        Self { inner, digester: Digester::new(algorithm), count: 0 }
    }

    /// How many bytes have been read.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Reads to the end and holds size and digest against what was promised.
    pub(crate) fn verify(mut self, digest: &Digest, size: u64) -> Result<()> {
        io::copy(&mut self, &mut io::sink()).map_err(|source| StoreError::Source { at: size, source })?;
        if self.count != size {
            return Err(StoreError::SizeMismatch { expected: size, actual: self.count });
        }
        let actual = self.digester.finish();
        if actual == *digest { Ok(()) } else { Err(StoreError::DigestMismatch { expected: digest.clone(), actual }) }
    }
}

impl<R: BufRead> Read for Hashed<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(out)?;
        self.digester.update(out.get(..count).unwrap_or_default());
        self.count += count as u64;
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Hashed<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        // A buffer that was filled is handed out again without I/O until it is consumed (`BufRead::fill_buf`).
        if let Ok(buffer) = self.inner.fill_buf() {
            self.digester.update(buffer.get(..amount).unwrap_or_default());
        }
        self.count += amount as u64;
        self.inner.consume(amount);
    }
}
