//! Bytes of a descriptor as they come: counted, hashed, and never more than promised.

use std::io::{self, BufRead, Read};

use imagevol_api::oci::{Algorithm, Digest};
use imagevol_base::Digester;

use crate::{Result, StoreError};

/// A reader that hashes what is read from it, and fails with a [`Fault`] if that is not as many bytes as were promised.
pub(crate) struct Hashed<R> {
    inner: R,
    digester: Digester,
    count: u64,
    size: u64,
}

/// What is wrong with the source itself. It travels inside an [`io::Error`] through the decoders, which hand errors on as they are.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// It failed.
    #[error("source failed")]
    Stopped { at: u64, source: io::Error },
    /// It ended early, or did not end.
    #[error("source is {actual} bytes long")]
    Size { actual: u64 },
}

// === impl Hashed ===

impl<R: BufRead> Hashed<R> {
    /// Reads exactly `size` bytes.
    pub(crate) fn new(algorithm: Algorithm, inner: R, size: u64) -> Self {
        Self { inner, digester: Digester::new(algorithm), count: 0, size }
    }

    /// Reads what is left, and holds all of it against what was promised.
    pub(crate) fn verify(mut self, digest: &Digest) -> Result<()> {
        let size = self.size;
        // Nothing but faults of the source can come up here.
        io::copy(&mut self, &mut io::sink()).map_err(|error| of_read(error, "none", size))?;
        let actual = self.digester.finish();
        if actual == *digest { Ok(()) } else { Err(StoreError::DigestMismatch { expected: digest.clone(), actual }) }
    }

    /// How much of `wanted` may still come; nothing, at the end, and then nothing must follow.
    fn allowed(&mut self, wanted: usize) -> io::Result<usize> {
        let left = self.size.saturating_sub(self.count);
        if left == 0 {
            let more = stopped(self.count, self.inner.fill_buf())?.len() as u64;
            return if more == 0 { Ok(0) } else { Err(fault(Fault::Size { actual: self.count.saturating_add(more) })) };
        }
        Ok(usize::try_from(left).unwrap_or(wanted).min(wanted))
    }
}

impl<R: BufRead> Read for Hashed<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let allowed = self.allowed(out.len())?;
        let Some(out) = out.get_mut(..allowed).filter(|out| !out.is_empty()) else { return Ok(0) };
        let count = stopped(self.count, self.inner.read(out))?;
        if count == 0 {
            return Err(fault(Fault::Size { actual: self.count }));
        }
        self.digester.update(out.get(..count).unwrap_or_default());
        self.count += count as u64;
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Hashed<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let allowed = self.allowed(usize::MAX)?;
        let at = self.count;
        let buffer = stopped(at, self.inner.fill_buf())?;
        if buffer.is_empty() && allowed > 0 {
            return Err(fault(Fault::Size { actual: at }));
        }
        Ok(buffer.get(..allowed).unwrap_or(buffer))
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

/// What a failed read through a decoder means: the source's fault, or the stream's.
pub(crate) fn of_read(error: io::Error, compression: &'static str, expected: u64) -> StoreError {
    match error.downcast::<Fault>() {
        Ok(Fault::Stopped { at, source }) => StoreError::Source { at, source },
        Ok(Fault::Size { actual }) => StoreError::SizeMismatch { expected, actual },
        Err(source) => StoreError::Inflate { compression, source },
    }
}

fn fault(fault: Fault) -> io::Error {
    io::Error::other(fault)
}

/// An interrupted call is none of the source's faults: whoever reads tries again (`Read::read`).
fn stopped<T>(at: u64, result: io::Result<T>) -> io::Result<T> {
    let interrupted = |error: &io::Error| error.kind() == io::ErrorKind::Interrupted;
    result.map_err(|source| if interrupted(&source) { source } else { fault(Fault::Stopped { at, source }) })
}
