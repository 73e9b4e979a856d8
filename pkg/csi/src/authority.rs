//! Kubelets name the path of a plugin's socket as the `:authority` of their calls: grpc-go takes it from the address that it dials, and
//! the kubelet's plugin watcher sets no other (pkg/kubelet/pluginmanager/operationexecutor/operation_generator.go, `dial`). That is no
//! authority (RFC 3986, 3.2), and the `h2` crate ends such a stream with PROTOCOL_ERROR. On a unix socket nobody needs it: what comes in
//! passes here, and each literal `:authority` is replaced by `localhost`, as the kubelet's CSI client calls itself.
//!
//! Frames are those of RFC 9113, header fields those of RFC 7541. Only lengths are read, nothing is decoded. The entry that a replaced
//! field makes in the dynamic table is never larger for h2 than the client thinks as long as the client's own was longer than
//! `localhost`; a shorter one is left as it is. So no entry that the client still refers to is evicted.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tonic::transport::server::Connected;

/// The client's preface (RFC 9113, 3.4).
const PREFACE: usize = 24;
/// Length, type, flags, stream (RFC 9113, 4.1).
const FRAME_HEAD: usize = 9;
/// The largest frame that a server takes that has said nothing else (RFC 9113, 4.2).
const FRAME_MAX: usize = 1 << 14;
/// A HEADERS frame, and its flags (RFC 9113, 6.2).
const HEADERS: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;
/// Where `:authority` stands in the static table (RFC 7541, appendix A).
const AUTHORITY: usize = 1;
/// What takes its place.
const LOCALHOST: &[u8] = b"localhost";
/// Read at once.
const CHUNK: usize = 8 << 10;

/// A connection whose calls have an authority.
#[derive(Debug)]
pub(crate) struct Named {
    stream: UnixStream,
    frames: Frames,
    /// Read, changed, and not taken yet.
    ready: Vec<u8>,
    taken: usize,
}

/// The frames that come in, piece by piece.
#[derive(Debug)]
struct Frames {
    state: State,
}

#[derive(Debug)]
enum State {
    /// So many bytes pass as they are.
    Pass(usize),
    /// The head of a frame, as far as it is here.
    Head(Vec<u8>),
    /// A HEADERS frame with its head, as far as it is here, and how long it will be.
    Headers(Vec<u8>, usize),
}

// === impl Named ===

impl Named {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream, frames: Frames { state: State::Pass(PREFACE) }, ready: Vec::new(), taken: 0 }
    }

    fn take(&mut self, into: &mut ReadBuf<'_>) -> bool {
        let rest = self.ready.get(self.taken..).unwrap_or_default();
        let count = rest.len().min(into.remaining());
        into.put_slice(rest.get(..count).unwrap_or_default());
        self.taken += count;
        count > 0
    }
}

impl AsyncRead for Named {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while !this.take(into) && into.remaining() > 0 {
            let mut chunk = [0; CHUNK];
            let mut read = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut read))?;
            if read.filled().is_empty() {
                break;
            }
            this.ready.clear();
            this.taken = 0;
            this.frames.feed(read.filled(), &mut this.ready);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Named {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

impl Connected for Named {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

// === impl Frames ===

impl Frames {
    /// Takes what came in, and gives on what is complete.
    fn feed(&mut self, mut input: &[u8], output: &mut Vec<u8>) {
        while !input.is_empty() {
            let (head, rest) = input.split_at(self.wants().min(input.len()));
            self.eat(head, output);
            input = rest;
        }
    }

    /// How many bytes the state lasts for; never zero.
    fn wants(&self) -> usize {
        match &self.state {
            State::Pass(left) => *left,
            State::Head(head) => FRAME_HEAD - head.len(),
            State::Headers(frame, whole) => whole - frame.len(),
        }
    }

    fn eat(&mut self, bytes: &[u8], output: &mut Vec<u8>) {
        let state = std::mem::replace(&mut self.state, State::Head(Vec::new()));
        self.state = match state {
            State::Pass(left) => {
                output.extend_from_slice(bytes);
                pass(left - bytes.len())
            }
            State::Head(head) => begun([&head, bytes].concat(), output),
            State::Headers(frame, whole) => {
                let frame = [&frame, bytes].concat();
                if frame.len() < whole {
                    State::Headers(frame, whole)
                } else {
                    output.extend(renamed(&frame).unwrap_or(frame));
                    State::Head(Vec::new())
                }
            }
        };
    }
}

fn pass(left: usize) -> State {
    if left == 0 { State::Head(Vec::new()) } else { State::Pass(left) }
}

/// What follows a frame's head.
fn begun(head: Vec<u8>, output: &mut Vec<u8>) -> State {
    let [a, b, c, kind, flags, ..] = head[..] else { return State::Head(head) };
    if head.len() < FRAME_HEAD {
        return State::Head(head);
    }
    let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
    // A block in several frames, or one that is too long, is as it is: no client of ours needs that many headers.
    if kind == HEADERS && flags & END_HEADERS != 0 && (1..=FRAME_MAX).contains(&length) {
        return State::Headers(head, FRAME_HEAD + length);
    }
    output.extend(head);
    pass(length)
}

/// A whole HEADERS frame with its authority replaced; `None` if there is nothing to replace, or the frame breaks a rule, which is for h2
/// to say.
fn renamed(frame: &[u8]) -> Option<Vec<u8>> {
    let (head, payload) = frame.split_at_checked(FRAME_HEAD)?;
    let flags = *head.get(4)?;
    let padding = if flags & PADDED != 0 { usize::from(*payload.first()?) + 1 } else { 0 };
    let before = usize::from(flags & PADDED != 0) + if flags & PRIORITY != 0 { 5 } else { 0 };
    let after = padding.saturating_sub(1);
    let block = payload.get(before..payload.len().checked_sub(after)?)?;
    let fields = replaced(block)?;
    let (first, last) = (payload.get(..before)?, payload.get(payload.len() - after..)?);
    let length = u32::try_from(first.len() + fields.len() + last.len()).ok()?.to_be_bytes();
    Some([length.get(1..)?, head.get(3..)?, first, &fields, last].concat())
}

/// A header block with its authority replaced.
fn replaced(block: &[u8]) -> Option<Vec<u8>> {
    let (mut rest, mut fields) = (block, Vec::with_capacity(block.len()));
    while let Some(first) = rest.first() {
        let prefix = match first.leading_zeros() {
            // Indexed.
            0 => 7,
            // With incremental indexing.
            1 => 6,
            // An update of the table's size.
            2 => 5,
            // Never indexed, or not now.
            _ => 4,
        };
        let (index, mut length) = integer(rest, prefix)?;
        if prefix == 6 || prefix == 4 {
            if index == 0 {
                length += string(rest.get(length..)?)?;
            }
            let value = string(rest.get(length..)?)?;
            if index == AUTHORITY && value > LOCALHOST.len() {
                fields.extend_from_slice(rest.get(..length)?);
                fields.push(u8::try_from(LOCALHOST.len()).ok()?);
                fields.extend_from_slice(LOCALHOST);
                rest = rest.get(length + value..)?;
                continue;
            }
            length += value;
        }
        let (field, after) = rest.split_at_checked(length)?;
        fields.extend_from_slice(field);
        rest = after;
    }
    Some(fields)
}

/// An integer with a prefix of so many bits, and its length (RFC 7541, 5.1).
fn integer(bytes: &[u8], prefix: u32) -> Option<(usize, usize)> {
    let most = (1_usize << prefix) - 1;
    let first = usize::from(*bytes.first()?) & most;
    if first < most {
        return Some((first, 1));
    }
    let mut value = most;
    for (position, byte) in bytes.iter().enumerate().skip(1) {
        let shift = u32::try_from(7 * (position - 1)).ok().filter(|shift| *shift <= 14)?;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value, position + 1));
        }
    }
    None
}

/// The whole length of a string, with its own length before it (RFC 7541, 5.2).
fn string(bytes: &[u8]) -> Option<usize> {
    let (length, before) = integer(bytes, 7)?;
    let whole = length + before;
    (whole <= bytes.len()).then_some(whole)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    /// What grpc-go sends first on a connection to `/p/reg.sock`: settings, then a HEADERS frame of indexed fields, `:path`,
    /// `:authority`, and a field with a new name.
    fn sent(authority: &[u8]) -> Vec<u8> {
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &[0, 0, 0, 4, 0, 0, 0, 0, 0], &headers(authority), &data()]
            .concat()
    }

    fn headers(authority: &[u8]) -> Vec<u8> {
        let length = u8::try_from(authority.len()).unwrap();
        let block =
            [&[0x83, 0x86, 0x44, 2, b'/', b'x', 0x41, length], authority, &[0x40, 2, b't', b'e', 1, b'y']].concat();
        [&[0, 0, u8::try_from(block.len()).unwrap(), HEADERS, END_HEADERS, 0, 0, 0, 1], block.as_slice()].concat()
    }

    /// A DATA frame that looks like headers inside.
    fn data() -> Vec<u8> {
        [&[0, 0, 12, 0, 1, 0, 0, 0, 1], &[0x41, 0x83][..], &[b'x'; 10]].concat()
    }

    fn feed(pieces: &[&[u8]]) -> Vec<u8> {
        let (mut frames, mut output) = (Frames { state: State::Pass(PREFACE) }, Vec::new());
        for piece in pieces {
            frames.feed(piece, &mut output);
        }
        output
    }

    #[test]
    fn a_path_is_replaced_and_all_else_stays() {
        let path = b"/var/lib/kubelet/plugins_registry/csi.imagevol.dev-reg.sock";
        assert_eq!(feed(&[&sent(path)]), sent(LOCALHOST));
    }

    #[test]
    fn a_padded_block_with_a_priority_keeps_both() {
        let with = |authority: &[u8]| {
            let block = [&[0x41, u8::try_from(authority.len()).unwrap()], authority].concat();
            let length = u8::try_from(block.len() + 8).unwrap();
            let flags = END_HEADERS | PADDED | PRIORITY;
            [&[0, 0, length, HEADERS, flags, 0, 0, 0, 1, 2, 0, 0, 0, 0, 7], block.as_slice(), &[0, 0]].concat()
        };
        assert_eq!(renamed(&with(b"/a/path/that/is/long")), Some(with(LOCALHOST)));
    }

    /// Broken ones are for h2 to refuse.
    #[rstest]
    #[case::string_past_the_end(&[0x41, 20, b'x'])]
    #[case::endless_integer(&[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff])]
    #[case::cut_integer(&[0xff, 0x80])]
    fn a_broken_block_is_left_alone(#[case] block: &[u8]) {
        assert_eq!(replaced(block), None);
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(cuts in proptest::collection::vec(0..120_usize, 0..6)) {
            let whole = sent(b"/var/lib/kubelet/plugins_registry/reg.sock");
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(whole.len())).collect();
            cuts.extend([0, whole.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &whole[cut[0]..cut[1]]).collect();
            prop_assert_eq!(feed(&pieces), sent(LOCALHOST));
        }

        #[test]
        fn whatever_comes_in_nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400), at in 0..400_usize) {
            let at = at.min(bytes.len());
            feed(&[&bytes[..at], &bytes[at..]]);
        }
    }
}
