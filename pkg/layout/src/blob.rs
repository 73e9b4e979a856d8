//! Bytes of one file, wherever they lie.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};

/// Reads one file of a layout: a file, a part of a tar, or bytes that were made here. It ends where it was said to end, or fails.
#[derive(Debug)]
pub struct Blob {
    source: Source,
    size: u64,
}

#[derive(Debug)]
enum Source {
    /// From `at` up to `end` of a file that others read too.
    File {
        file: Arc<File>,
        at: u64,
        end: u64,
    },
    Bytes(Bytes),
}

// === impl Blob ===

impl Blob {
    pub(crate) fn of_file(file: Arc<File>, at: u64, size: u64) -> Self {
        Self { source: Source::File { file, at, end: at.saturating_add(size) }, size }
    }

    pub(crate) fn of_bytes(bytes: Bytes) -> Self {
        Self { size: bytes.len() as u64, source: Source::Bytes(bytes) }
    }

    /// Bytes of the whole.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Goes on after the next `count` bytes, or at the end.
    pub fn skip(&mut self, count: u64) {
        match &mut self.source {
            Source::File { at, end, .. } => *at = at.saturating_add(count).min(*end),
            Source::Bytes(bytes) => bytes.advance(usize::try_from(count).unwrap_or(usize::MAX).min(bytes.len())),
        }
    }
}

impl Read for Blob {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let (file, at, end) = match &mut self.source {
            Source::File { file, at, end } => (file, at, *end),
            Source::Bytes(bytes) => return bytes.reader().read(out),
        };
        let left = usize::try_from(end - *at).unwrap_or(usize::MAX);
        let wanted = left.min(out.len());
        let count = file.read_at(out.get_mut(..wanted).unwrap_or_default(), *at)?;
        if count == 0 && wanted > 0 {
            // Somebody has cut the file off since it was opened.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        *at += count as u64;
        Ok(count)
    }
}
