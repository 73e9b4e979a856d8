//! A tar writer for tests: every byte of every header can be made wrong.

use crate::{LayerError, LayerIndex, Limits, Parser};

/// An archive under construction.
#[derive(Debug, Clone, Default)]
pub(crate) struct Archive(pub(crate) Vec<u8>);

/// A header under construction; `Header::new` is a ustar file of mode 0644.
#[derive(Debug, Clone)]
pub(crate) struct RawHeader(pub(crate) [u8; 512]);

impl RawHeader {
    pub(crate) fn new(name: impl AsRef<[u8]>, flag: u8) -> Self {
        let mut header = Self([0; 512]);
        header.put(0, name.as_ref()).put(100, b"0000644\0").put(108, b"0000000\0").put(116, b"0000000\0");
        header.put(124, b"00000000000\0").put(136, b"00000000144\0").put(257, b"ustar\x0000");
        header.put(329, b"0000000\0").put(337, b"0000000\0");
        header.0[156] = flag;
        header
    }

    pub(crate) fn put(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(crate) fn with(mut self, at: usize, bytes: &[u8]) -> Self {
        self.put(at, bytes);
        self
    }

    pub(crate) fn size(self, size: u64) -> Self {
        self.with(124, format!("{size:011o}\0").as_bytes())
    }

    pub(crate) fn mode(self, mode: u32) -> Self {
        self.with(100, format!("{mode:07o}\0").as_bytes())
    }

    pub(crate) fn link(self, target: impl AsRef<[u8]>) -> Self {
        self.with(157, target.as_ref())
    }

    pub(crate) fn gnu(self) -> Self {
        self.with(257, b"ustar  \0")
    }

    pub(crate) fn sealed(mut self) -> [u8; 512] {
        self.put(148, b"        ");
        let sum: u32 = self.0.iter().map(|byte| u32::from(*byte)).sum();
        self.put(148, format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

impl Archive {
    pub(crate) fn header(mut self, header: RawHeader) -> Self {
        self.0.extend_from_slice(&header.sealed());
        self
    }

    pub(crate) fn raw(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.0.extend_from_slice(bytes.as_ref());
        self
    }

    pub(crate) fn padded(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.0.extend_from_slice(bytes.as_ref());
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn entry(self, header: RawHeader, data: impl AsRef<[u8]>) -> Self {
        let size = data.as_ref().len() as u64;
        self.header(header.size(size)).padded(data)
    }

    pub(crate) fn file(self, name: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Self {
        self.entry(RawHeader::new(name, b'0'), data)
    }

    pub(crate) fn dir(self, name: impl AsRef<[u8]>, mode: u32) -> Self {
        self.header(RawHeader::new(name, b'5').mode(mode))
    }

    pub(crate) fn symlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.header(RawHeader::new(name, b'2').link(target))
    }

    pub(crate) fn hard_link(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.header(RawHeader::new(name, b'1').link(target))
    }

    /// A PAX header (`x` or `g`) of these records.
    pub(crate) fn pax(self, flag: u8, records: &[(&str, &[u8])]) -> Self {
        let records: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        self.entry(RawHeader::new("pax", flag), records)
    }

    /// A GNU long name (`L`) or link (`K`).
    pub(crate) fn long(self, flag: u8, name: &[u8]) -> Self {
        self.entry(RawHeader::new("././@LongLink", flag).gnu(), [name, b"\0"].concat())
    }

    pub(crate) fn end(self) -> Vec<u8> {
        self.raw([0; 1024]).0
    }

    pub(crate) fn parse(self) -> Result<LayerIndex, LayerError> {
        parse(&self.end())
    }

    pub(crate) fn index(self) -> LayerIndex {
        self.parse().unwrap()
    }
}

pub(crate) fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key.as_bytes(), b"=", value, b"\n"].concat()
}

pub(crate) fn parse(bytes: &[u8]) -> Result<LayerIndex, LayerError> {
    parse_in(bytes, usize::MAX, Limits::default())
}

pub(crate) fn parse_in(bytes: &[u8], piece: usize, limits: Limits) -> Result<LayerIndex, LayerError> {
    let mut parser = Parser::new(limits);
    for chunk in bytes.chunks(piece.min(bytes.len().max(1))) {
        parser.feed(chunk)?;
    }
    parser.finish()
}
