//! The 512 bytes of a tar header (POSIX.1-2001 pax, "ustar Interchange Format"; GNU tar's `tar.h`).

use std::ops::Range;

use crate::number;

/// Bytes of a header.
pub(crate) const HEADER: usize = 512;

const NAME: Range<usize> = 0..100;
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const FLAG: usize = 156;
const LINK_NAME: Range<usize> = 157..257;
const MAGIC: Range<usize> = 257..265;
const MAJOR: Range<usize> = 329..337;
const MINOR: Range<usize> = 337..345;
const PREFIX: Range<usize> = 345..500;
/// star keeps times behind a shorter prefix, and says so at the end of the header.
const STAR_PREFIX: Range<usize> = 345..476;
const STAR_TRAILER: Range<usize> = 508..512;
const GNU_TIMES: [Range<usize>; 2] = [345..357, 357..369];
const GNU_SPARSE: Range<usize> = 386..482;
const GNU_EXTENDED: usize = 482;
const GNU_REAL_SIZE: Range<usize> = 483..495;

/// Bytes of one run of an old GNU sparse map: offset and length.
const GNU_RUN: usize = 24;
/// Runs fill an extension block up to here; the next byte says whether another block follows.
const GNU_EXTENSION_RUNS: usize = 504;

/// A block that was read as a header and whose checksum is right.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header<'a> {
    block: &'a [u8],
    format: Format,
}

/// Which fields a header has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Before POSIX: no magic, no prefix, no device numbers.
    V7,
    /// POSIX ustar and pax.
    Ustar,
    /// star's variant of ustar.
    Star,
    /// Old GNU.
    Gnu,
}

/// Runs of a sparse file and whether more follow in the next block.
#[derive(Debug)]
pub(crate) struct Runs {
    pub(crate) runs: Vec<(u64, u64)>,
    pub(crate) more: bool,
}

// === impl Header ===

impl<'a> Header<'a> {
    /// `None` if the checksum is wrong: this is no header.
    pub(crate) fn new(block: &'a [u8]) -> Option<Self> {
        let stored = number::octal(block.get(CHECKSUM)?)?;
        // Some old writers summed signed bytes; POSIX says unsigned, and every reader takes both.
        let (unsigned, signed) = checksums(block);
        let right = stored == unsigned || i64::try_from(stored).is_ok_and(|stored| stored == signed);
        right.then(|| Self { block, format: Format::of(block) })
    }

    pub(crate) fn format(self) -> Format {
        self.format
    }

    pub(crate) fn flag(self) -> u8 {
        self.block.get(FLAG).copied().unwrap_or_default()
    }

    /// Name with the prefix before it, where the format has one.
    pub(crate) fn name(self) -> Vec<u8> {
        let name = self.text(NAME);
        let prefix = match self.format {
            Format::V7 => &[],
            Format::Ustar => self.text(PREFIX),
            Format::Star => self.text(STAR_PREFIX),
            Format::Gnu => self.misplaced_prefix(),
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(crate) fn link_name(self) -> Vec<u8> {
        self.text(LINK_NAME).to_vec()
    }

    pub(crate) fn size(self) -> Option<u64> {
        self.number(SIZE).and_then(|size| u64::try_from(size).ok())
    }

    pub(crate) fn mode(self) -> Option<i64> {
        self.number(MODE)
    }

    pub(crate) fn uid(self) -> Option<i64> {
        self.number(UID)
    }

    pub(crate) fn gid(self) -> Option<i64> {
        self.number(GID)
    }

    pub(crate) fn mtime(self) -> Option<i64> {
        self.number(MTIME)
    }

    /// Major and minor number; 0:0 in V7, which has none.
    pub(crate) fn device(self) -> Option<(i64, i64)> {
        match self.format {
            Format::V7 => Some((0, 0)),
            Format::Ustar | Format::Star | Format::Gnu => Some((self.number(MAJOR)?, self.number(MINOR)?)),
        }
    }

    /// The runs in the header of an old GNU sparse file.
    pub(crate) fn sparse_runs(self) -> Option<Runs> {
        let runs = runs(self.bytes(GNU_SPARSE))?;
        Some(Runs { runs, more: self.block.get(GNU_EXTENDED).is_some_and(|flag| *flag != 0) })
    }

    /// Size of an old GNU sparse file with its holes.
    pub(crate) fn sparse_size(self) -> Option<u64> {
        self.number(GNU_REAL_SIZE).and_then(|size| u64::try_from(size).ok())
    }

    /// Go before 1.8 wrote a ustar prefix into GNU headers, over the times; images from then are still pulled. Times that are no numbers give it away.
    fn misplaced_prefix(self) -> &'a [u8] {
        let times_are_numbers = GNU_TIMES.into_iter().all(|time| self.number(time).is_some());
        if times_are_numbers || self.flag() == b'S' {
            return &[];
        }
        let prefix = self.text(PREFIX);
        if prefix.is_ascii() { prefix } else { &[] }
    }

    fn bytes(self, range: Range<usize>) -> &'a [u8] {
        self.block.get(range).unwrap_or_default()
    }

    fn text(self, range: Range<usize>) -> &'a [u8] {
        self.bytes(range).split(|byte| *byte == 0).next().unwrap_or_default()
    }

    fn number(self, range: Range<usize>) -> Option<i64> {
        number::field(self.bytes(range))
    }
}

// === impl Format ===

impl Format {
    fn of(block: &[u8]) -> Self {
        let magic = block.get(MAGIC).unwrap_or_default();
        let star = block.get(STAR_TRAILER).is_some_and(|trailer| trailer == b"tar\0");
        match magic {
            b"ustar  \0" => Self::Gnu,
            _ if magic.starts_with(b"ustar\0") && star => Self::Star,
            _ if magic.starts_with(b"ustar\0") => Self::Ustar,
            _ => Self::V7,
        }
    }
}

/// The runs in an extension block of an old GNU sparse map; `None` if one is no number.
pub(crate) fn extension_runs(block: &[u8]) -> Option<Runs> {
    let runs = runs(block.get(..GNU_EXTENSION_RUNS)?)?;
    Some(Runs { runs, more: block.get(GNU_EXTENSION_RUNS).is_some_and(|flag| *flag != 0) })
}

fn runs(bytes: &[u8]) -> Option<Vec<(u64, u64)>> {
    let used = bytes.chunks_exact(GNU_RUN).take_while(|run| run.first().is_some_and(|byte| *byte != 0));
    used.map(|run| {
        let (offset, length) = run.split_at_checked(GNU_RUN / 2)?;
        let number = |bytes| number::field(bytes).and_then(|value| u64::try_from(value).ok());
        Some((number(offset)?, number(length)?))
    })
    .collect()
}

/// Sums of all bytes, those of the checksum itself taken as blanks: unsigned and signed.
fn checksums(block: &[u8]) -> (u64, i64) {
    let unsigned = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    let signed = |bytes: &[u8]| bytes.iter().map(|byte| i64::from(byte.cast_signed())).sum::<i64>();
    let stored = block.get(CHECKSUM).unwrap_or_default();
    (unsigned(block) - unsigned(stored) + 8 * 32, signed(block) - signed(stored) + 8 * 32)
}
