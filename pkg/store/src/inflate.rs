//! Decompression of layers: bytes of the registry in, bytes of the tar out, nothing held but the decoder's window.

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;

/// Largest window that a zstd frame may ask for: 128 MiB, what `zstd --long` makes and every decoder takes by default (RFC 8878, 3.1.1.1.2).
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Bytes that tell the compression: the length of zstd's magic number, the longer one (RFC 8878, 3.1.1).
pub const MAGIC_BYTES: u64 = 4;

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, of one or more members (RFC 1952, 2.2).
    Gzip,
    /// zstd, of one or more frames (RFC 8878).
    Zstd,
    /// As the first bytes say.
    Detect,
}

/// Reads what a compressed source holds.
pub struct Inflate<R: BufRead>(Decoder<R>);

enum Decoder<R: BufRead> {
    None(R),
    Gzip(Members<R>),
    Zstd(Box<zstd::stream::read::Decoder<'static, R>>),
}

/// gzip members in a row. Zeros may follow the last, as tape blocks leave them and GNU gzip allows.
struct Members<R: BufRead> {
    state: State<R>,
}

enum State<R: BufRead> {
    Inside(Box<GzDecoder<R>>),
    Between(R),
    Broken,
}

// === impl Compression ===

impl Compression {
    /// What the media type of a layer says (OCI image spec, media-types.md; Docker schema 2). `None` for what is no tar layer.
    pub fn of_media_type(media_type: &str) -> Option<Self> {
        match media_type {
            "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar"
            | "application/vnd.docker.image.rootfs.diff.tar"
            | "application/x-tar" => Some(Self::None),
            "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
            | "application/x-gtar"
            | "application/x-tar+gzip" => Some(Self::Gzip),
            "application/vnd.oci.image.layer.v1.tar+zstd"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd"
            | "application/x-tar+zstd" => Some(Self::Zstd),
            other => Self::of_suffix(other),
        }
    }

    /// Model and other artifacts name their own tars: `application/vnd.cncf.model.weight.v1.tar+gzip`.
    fn of_suffix(media_type: &str) -> Option<Self> {
        match media_type.rsplit('.').next() {
            Some("tar") => Some(Self::None),
            Some("tar+gzip") => Some(Self::Gzip),
            Some("tar+zstd") => Some(Self::Zstd),
            _ => None,
        }
    }

    /// What the first bytes say (RFC 1952 2.3.1, RFC 8878 3.1.1), for content whose media type says nothing.
    pub fn of_magic(head: &[u8]) -> Self {
        if head.starts_with(&[0x1f, 0x8b]) {
            Self::Gzip
        } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Self::Zstd
        } else {
            Self::None
        }
    }

    /// The name of the format.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Detect => "unknown",
        }
    }
}

// === impl Inflate ===

impl<R: BufRead> Inflate<R> {
    /// A decoder at the start of a stream. To detect the compression, what the source has buffered must tell it.
    pub fn new(compression: Compression, mut source: R) -> io::Result<Self> {
        let compression =
            if compression == Compression::Detect { Compression::of_magic(source.fill_buf()?) } else { compression };
        Ok(Self(match compression {
            Compression::Detect | Compression::None => Decoder::None(source),
            Compression::Gzip => Decoder::Gzip(Members { state: State::Inside(Box::new(GzDecoder::new(source))) }),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Decoder::Zstd(Box::new(decoder))
            }
        }))
    }

    /// The source, with what follows the compressed stream still in it.
    pub(crate) fn into_source(self) -> Option<R> {
        match self.0 {
            Decoder::None(source) => Some(source),
            Decoder::Gzip(members) => members.into_source(),
            Decoder::Zstd(decoder) => Some(decoder.finish()),
        }
    }
}

impl<R: BufRead> std::fmt::Debug for Inflate<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflate").finish_non_exhaustive()
    }
}

impl<R: BufRead> Read for Inflate<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Decoder::None(source) => source.read(out),
            Decoder::Gzip(members) => members.read(out),
            Decoder::Zstd(decoder) => decoder.read(out),
        }
    }
}

// === impl Members ===

impl<R: BufRead> Members<R> {
    fn into_source(self) -> Option<R> {
        match self.state {
            State::Inside(decoder) => Some(decoder.into_inner()),
            State::Between(source) => Some(source),
            State::Broken => None,
        }
    }

    /// Begins the next member, if there is one.
    fn next_member(mut source: R) -> io::Result<State<R>> {
        loop {
            let head = source.fill_buf()?;
            let zeros = head.iter().take_while(|byte| **byte == 0).count();
            if head.is_empty() {
                return Ok(State::Between(source));
            }
            if zeros < head.len() {
                source.consume(zeros);
                return Ok(State::Inside(Box::new(GzDecoder::new(source))));
            }
            source.consume(zeros);
        }
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            match std::mem::replace(&mut self.state, State::Broken) {
                State::Inside(mut decoder) => {
                    let read = decoder.read(out);
                    if !matches!(read, Ok(0)) || out.is_empty() {
                        self.state = State::Inside(decoder);
                        return read;
                    }
                    self.state = Self::next_member(decoder.into_inner())?;
                }
                State::Between(source) => {
                    self.state = State::Between(source);
                    return Ok(0);
                }
                State::Broken => return Err(io::Error::other("read after an error")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn inflate(compression: Compression, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Inflate::new(compression, bytes)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn reads_all_members_and_skips_zeros_after_them() {
        let bytes = [gzip(b"one "), gzip(b""), gzip(b"two"), vec![0; 1000]].concat();
        assert_eq!(inflate(Compression::Gzip, &bytes).unwrap(), b"one two");
    }

    #[test]
    fn refuses_garbage_after_a_member() {
        assert!(inflate(Compression::Gzip, &[gzip(b"one"), b"garbage".to_vec()].concat()).is_err());
    }

    #[test]
    fn refuses_a_stream_that_is_cut_short_anywhere() {
        let content = vec![7; 10_000];
        let streams =
            [(Compression::Gzip, gzip(&content)), (Compression::Zstd, zstd::encode_all(&content[..], 1).unwrap())];
        for (compression, bytes) in streams {
            for length in 1..bytes.len() {
                assert!(inflate(compression, &bytes[..length]).is_err(), "{compression:?} {length}");
            }
        }
    }

    #[test]
    fn refuses_a_wrong_checksum() {
        let mut bytes = gzip(b"content");
        let at = bytes.len() - 8;
        bytes[at] ^= 1;
        assert!(inflate(Compression::Gzip, &bytes).is_err());
    }

    #[test]
    fn reads_all_zstd_frames() {
        let bytes = [zstd::encode_all(&b"one "[..], 1).unwrap(), zstd::encode_all(&b"two"[..], 19).unwrap()].concat();
        assert_eq!(inflate(Compression::Zstd, &bytes).unwrap(), b"one two");
    }
}
