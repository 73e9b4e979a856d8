//! A byte stream that knows its position.

use std::io::{BufWriter, Write};

use crate::error::WriteError;
use crate::format::BLOCK;

/// What zeros are written from.
const ZEROS: [u8; BLOCK] = [0; BLOCK];
/// Bytes gathered before the output sees them.
const BUFFER: usize = 128 << 10;

/// Writes in order, and counts.
#[derive(Debug)]
pub(crate) struct Output<W: Write> {
    out: BufWriter<W>,
    position: u64,
}

// === impl Output ===

impl<W: Write> Output<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out: BufWriter::with_capacity(BUFFER, out), position: 0 }
    }

    /// Bytes written so far.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Writes bytes.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.out.write_all(bytes).map_err(|source| WriteError::Output { source })?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Writes zeros up to a position; none if it is behind.
    pub(crate) fn pad_to(&mut self, position: u64) -> Result<(), WriteError> {
        while let Some(missing) = position.checked_sub(self.position).filter(|missing| *missing > 0) {
            let step = usize::try_from(missing).unwrap_or(BLOCK).min(BLOCK);
            self.put(ZEROS.get(..step).unwrap_or(&ZEROS))?;
        }
        Ok(())
    }

    /// Writes zeros up to the next multiple.
    pub(crate) fn align(&mut self, to: u64) -> Result<(), WriteError> {
        self.pad_to(self.position.next_multiple_of(to))
    }

    /// Hands the last bytes to the output and flushes it; gives the count.
    pub(crate) fn finish(mut self) -> Result<u64, WriteError> {
        self.out.flush().map_err(|source| WriteError::Output { source })?;
        Ok(self.position)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io;

    use super::*;

    /// What a function puts out.
    pub(crate) fn collect(put: impl FnOnce(&mut Output<&mut Vec<u8>>) -> Result<(), WriteError>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut output = Output::new(&mut bytes);
        put(&mut output).unwrap();
        output.finish().unwrap();
        bytes
    }

    #[test]
    fn pads_and_counts() {
        let bytes = collect(|out| {
            out.put(b"ab")?;
            out.align(4)?;
            out.align(4)?;
            out.pad_to(2)?;
            assert_eq!(out.position(), 4);
            out.pad_to(2000)?;
            out.put(b"c")
        });
        assert_eq!(bytes.len(), 2001);
        assert!(bytes.starts_with(b"ab\0\0"));
    }

    #[test]
    fn last_bytes_that_do_not_fit_are_an_error() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut output = Output::new(Full);
        output.put(b"kept in the buffer").unwrap();
        let error = output.finish().unwrap_err();
        assert!(matches!(error, WriteError::Output { source } if source.kind() == io::ErrorKind::StorageFull));
    }
}
