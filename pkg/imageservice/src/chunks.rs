//! From the network's task to a blocking reader: a bounded channel of chunks that knows how it ended. Downloads come through it, and
//! archives that are imported.

use std::io::{self, BufRead, Read};

use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;

/// Chunks between network and disk: at the usual 64 KiB a chunk this is 1 MiB a blob, which covers a slow fsync without being felt.
const CHUNKS: usize = 16;

/// The writing end. Dropped before [`Sender::end`], its reader fails: what came in is not the whole.
#[derive(Debug)]
pub struct Sender(mpsc::Sender<Chunk>);

/// The reading end, for a thread that may block.
#[derive(Debug)]
pub struct Chunks {
    receiver: mpsc::Receiver<Chunk>,
    current: Bytes,
    ended: bool,
}

/// The reader is gone: it has failed, and says why.
#[derive(Debug, PartialEq, Eq)]
pub struct Gone;

#[derive(Debug)]
enum Chunk {
    Bytes(Bytes),
    End,
}

/// The two ends of a new channel.
pub fn channel() -> (Sender, Chunks) {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    (Sender(sender), Chunks { receiver, current: Bytes::new(), ended: false })
}

// === impl Sender ===

impl Sender {
    /// Waits while the reader is behind.
    pub async fn send(&self, bytes: Bytes) -> Result<(), Gone> {
        self.0.send(Chunk::Bytes(bytes)).await.map_err(|_| Gone)
    }

    /// Says that this was all.
    pub async fn end(self) -> Result<(), Gone> {
        self.0.send(Chunk::End).await.map_err(|_| Gone)
    }

    /// Resolves when the reader is gone.
    pub async fn gone(&self) {
        self.0.closed().await;
    }
}

// === impl Chunks ===

impl Read for Chunks {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(out)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Chunk::Bytes(bytes)) => self.current = bytes,
                Some(Chunk::End) => self.ended = true,
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the bytes stopped coming")),
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, amount: usize) {
        self.current.advance(amount.min(self.current.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(chunks: Chunks) -> (Vec<u8>, io::Result<usize>) {
        let read = move || {
            let (mut chunks, mut bytes) = (chunks, Vec::new());
            let result = chunks.read_to_end(&mut bytes);
            (bytes, result)
        };
        tokio::task::spawn_blocking(read).await.unwrap()
    }

    #[tokio::test]
    async fn what_was_sent_is_read() {
        let (sender, chunks) = channel();
        let writer = async {
            for text in ["one", "", "two"] {
                sender.send(Bytes::from_static(text.as_bytes())).await.unwrap();
            }
            sender.end().await
        };
        let (ended, (bytes, result)) = tokio::join!(writer, read(chunks));
        assert_eq!((ended, bytes.as_slice(), result.unwrap()), (Ok(()), b"onetwo".as_slice(), 6));
    }

    #[tokio::test]
    async fn a_sender_that_goes_away_is_no_end() {
        let (sender, chunks) = channel();
        sender.send(Bytes::from_static(b"half")).await.unwrap();
        drop(sender);
        let (bytes, result) = read(chunks).await;
        assert_eq!((bytes.as_slice(), result.unwrap_err().kind()), (b"half".as_slice(), io::ErrorKind::UnexpectedEof));
    }

    #[tokio::test]
    async fn a_reader_that_goes_away_is_told() {
        let (sender, chunks) = channel();
        drop(chunks);
        sender.gone().await;
        assert_eq!(sender.send(Bytes::from_static(b"more")).await, Err(Gone));
        assert_eq!(sender.end().await, Err(Gone));
    }
}
