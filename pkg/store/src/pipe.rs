//! Two threads for one download: the calling one decompresses, the other hashes, parses and writes.
//!
//! Decompression alone takes most of a core; what comes after it need not wait for it, nor it for that.

use std::io::{ErrorKind, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::Result;
use crate::sink::Sink;

/// Bytes that are handed over at once: large enough that handing over does not count, small enough for the second-level cache.
pub(crate) const CHUNK: usize = 256 * 1024;

/// Chunks between the two: one at each end, and two that even out what they take. 1 MiB for each download.
const BUFFERS: usize = 4;

/// Some bytes of the source, in a buffer that comes back to be filled again.
struct Piece {
    buffer: Vec<u8>,
    length: usize,
    /// Whether they are on disk already, from an earlier try.
    is_on_disk: bool,
}

/// Reads the source to its end into the sink. Its first `on_disk` bytes are in the file already.
///
/// What was read before the source failed reaches the sink. If both fail, the sink's error is the earlier one in the stream.
pub(crate) fn pump<E>(source: &mut impl Read, sink: &mut Sink<'_>, on_disk: u64, failed: E) -> Result<()>
where
    E: Fn(std::io::Error) -> crate::StoreError,
{
    let (filled, full) = sync_channel(BUFFERS);
    let (emptied, empty) = sync_channel(BUFFERS);
    for _ in 0..BUFFERS {
        // There is room for all of them, and the receiver is here.
        drop(emptied.send(vec![0; CHUNK]));
    }
    // By value: should the source panic, the channel closes, and the writer ends.
    thread::scope(move |scope| {
        let writer = scope.spawn(move || write_all(sink, &full, &emptied));
        let read = read_all(source, on_disk, (&empty, &filled));
        drop(filled);
        let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        written.and(read.map_err(failed))
    })
}

/// Ends early, and well, if the sink has failed.
fn read_all(
    source: &mut impl Read,
    on_disk: u64,
    (empty, filled): (&Receiver<Vec<u8>>, &SyncSender<Piece>),
) -> std::io::Result<()> {
    let mut left_on_disk = on_disk;
    while let Ok(mut buffer) = empty.recv() {
        let is_on_disk = left_on_disk > 0;
        // Bytes on disk and new ones are not mixed.
        let room = if is_on_disk { usize::try_from(left_on_disk).unwrap_or(CHUNK).min(CHUNK) } else { CHUNK };
        let (length, end) = fill(source, buffer.get_mut(..room).unwrap_or_default());
        left_on_disk = left_on_disk.saturating_sub(length as u64);
        if length > 0 && filled.send(Piece { buffer, length, is_on_disk }).is_err() {
            return Ok(());
        }
        if let Some(end) = end {
            return end;
        }
    }
    Ok(())
}

/// Fills the buffer, or tells how the source ended before.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> (usize, Option<std::io::Result<()>>) {
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match source.read(rest) {
            Ok(0) => return (length, Some(Ok(()))),
            Ok(count) => length += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return (length, Some(Err(error))),
        }
    }
    (length, None)
}

fn write_all(sink: &mut Sink<'_>, full: &Receiver<Piece>, emptied: &SyncSender<Vec<u8>>) -> Result<()> {
    for Piece { buffer, length, is_on_disk } in full {
        let bytes = buffer.get(..length).unwrap_or_default();
        if is_on_disk { sink.replay(bytes) } else { sink.write(bytes) }?;
        // At the end nobody fills it any more.
        drop(emptied.send(buffer));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, repeat};

    use imagevol_api::oci::Digest;
    use imagevol_base::Digester;
    use rstest::rstest;

    use super::*;
    use crate::StoreError;
    use crate::sink::DiffId;

    /// Fails after `left` bytes.
    struct Failing {
        left: usize,
    }

    impl Read for Failing {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            // Of odd sizes, as networks have them.
            let count = self.left.min(out.len()).min(7777);
            if count == 0 {
                return Err(std::io::Error::other("source stopped"));
            }
            self.left -= count;
            out[..count].fill(1);
            Ok(count)
        }
    }

    fn stopped(source: std::io::Error) -> StoreError {
        StoreError::Source { at: 0, source }
    }

    #[rstest]
    #[case::at_once(0)]
    #[case::within_a_chunk(CHUNK - 1)]
    #[case::at_the_end_of_a_chunk(2 * CHUNK)]
    #[case::after_all_buffers_were_used(3 * BUFFERS * CHUNK + 1)]
    fn keeps_what_was_read_before_the_source_failed(#[case] length: usize) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut sink = Sink::blob(file.as_file(), file.path());
        let result = pump(&mut Failing { left: length }, &mut sink, 0, stopped);
        assert!(matches!(result, Err(StoreError::Source { .. })));
        assert_eq!(std::fs::read(file.path()).unwrap(), vec![1; length]);
    }

    #[test]
    fn writes_nothing_that_is_on_disk_already() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut sink = Sink::blob(file.as_file(), file.path());
        let (on_disk, all) = (CHUNK as u64 + 5, 3 * CHUNK as u64);
        pump(&mut repeat(2).take(all), &mut sink, on_disk, stopped).unwrap();
        assert_eq!(file.as_file().metadata().unwrap().len(), all - on_disk);
    }

    #[test]
    fn the_error_that_comes_first_in_the_stream_wins() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let any: Digest = Digester::sha256(b"");
        // Ones are no header, and the source fails only after them.
        let mut sink = Sink::layer(file.as_file(), file.path(), DiffId::Blob(any), crate::Limits::default());
        let result = pump(&mut Failing { left: 10 * CHUNK }, &mut sink, 0, stopped);
        assert!(matches!(result, Err(StoreError::Layer(_))), "{result:?}");
    }
}
