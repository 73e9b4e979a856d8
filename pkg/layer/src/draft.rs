//! From headers to a checked entry.

use imagevol_erofs::Attributes;

use crate::entry::{self, Entry, Kind, MAX_ID, MAX_MAJOR, MAX_MINOR};
use crate::error::{LayerError, PathProblem, Result, Shown, SparseProblem};
use crate::header::{Format, Header};
use crate::number::Time;
use crate::path::{EntryPath, Meaning};
use crate::pax::{Records, SparseRecords};

/// The headers before an entry.
#[derive(Debug, Default)]
pub(crate) struct Extensions {
    pub(crate) pax: Option<Records>,
    pub(crate) long_name: Option<Vec<u8>>,
    pub(crate) long_link: Option<Vec<u8>>,
}

/// An entry whose headers were read, and whose sparse map perhaps was not.
#[derive(Debug)]
pub(crate) struct Draft {
    at: u64,
    name: Vec<u8>,
    link: Vec<u8>,
    kind: RawKind,
    mode: i64,
    uid: i64,
    gid: i64,
    device: (i64, i64),
    records: Records,
    /// Bytes of data in the archive, a sparse map before them included.
    stored: u64,
    sparse: Option<Sparse>,
}

/// Type flags that make a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RawKind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// A sparse file's map.
#[derive(Debug)]
pub(crate) struct Sparse {
    pub(crate) size: u64,
    pub(crate) runs: Vec<(u64, u64)>,
    /// Where the rest of the map is.
    pub(crate) rest: MapRest,
}

/// Where the rest of a sparse map is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MapRest {
    /// There is none.
    Complete,
    /// In blocks after the header (old GNU).
    Blocks,
    /// As text at the start of the data (PAX 1.0).
    Text,
}

// === impl Draft ===

impl Draft {
    /// Reads the header of an entry with what stood before it. `at` is where the header starts.
    pub(crate) fn new(header: Header<'_>, before: Extensions, globals: &Records, at: u64) -> Result<Self> {
        let mut records = before.pax.unwrap_or_else(|| globals.clone());
        let number = |field, value: Option<i64>| value.ok_or(LayerError::Number { at, field });
        let mtime = number("mtime", header.mtime())?;
        records.mtime.get_or_insert(Time { seconds: mtime, nanoseconds: 0 });
        let mut name = one_of(before.long_name, records.path.take(), at)?.unwrap_or_else(|| header.name());
        let link = one_of(before.long_link, records.link_path.take(), at)?.unwrap_or_else(|| header.link_name());
        let kind = RawKind::of(header, &name)?;
        let in_header = header.size().ok_or(LayerError::Number { at, field: "size" })?;
        let stored = if kind == RawKind::File { records.size.unwrap_or(in_header) } else { 0 };
        let sparse = Sparse::of(header, &mut records.sparse, stored)
            .map_err(|problem| LayerError::Sparse { path: Shown::new(&name), problem })?;
        if let Some(real) = records.sparse.name.take().filter(|_| sparse.is_some()) {
            name = real;
        }
        Ok(Self {
            at,
            uid: records.uid.map_or_else(|| number("uid", header.uid()), Ok)?,
            gid: records.gid.map_or_else(|| number("gid", header.gid()), Ok)?,
            mode: number("mode", header.mode())?,
            device: header.device().ok_or(LayerError::Number { at, field: "device" })?,
            name,
            link,
            kind,
            records,
            stored,
            sparse,
        })
    }

    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    pub(crate) fn stored(&self) -> u64 {
        self.stored
    }

    pub(crate) fn sparse_mut(&mut self) -> Option<&mut Sparse> {
        self.sparse.as_mut()
    }

    /// Where the rest of the entry's sparse map is.
    pub(crate) fn map_rest(&self) -> MapRest {
        self.sparse.as_ref().map_or(MapRest::Complete, |sparse| sparse.rest)
    }

    /// An error about the map.
    pub(crate) fn refuse(&self, problem: SparseProblem) -> LayerError {
        LayerError::Sparse { path: Shown::new(&self.name), problem }
    }

    /// Checks all that the headers claim. `data` is where the file's bytes start and how many there are. `None` for an entry that means nothing.
    pub(crate) fn finish(self, data: (u64, u64)) -> Result<Option<Entry>> {
        let refuse = |problem| LayerError::Path { path: Shown::new(&self.name), problem };
        let path = EntryPath::parse(&self.name).map_err(refuse)?;
        let (path, kind) = match Meaning::of(path).map_err(refuse)? {
            Meaning::Nothing => return Ok(None),
            Meaning::Whiteout(hidden) => (hidden, Kind::Whiteout),
            Meaning::Opaque(directory) => (directory, Kind::Opaque),
            Meaning::Present(path) if path.is_root() && self.kind != RawKind::Directory => {
                return Err(refuse(PathProblem::Root));
            }
            Meaning::Present(path) => {
                let kind = self.into_kind(&path, data)?;
                (path, kind)
            }
        };
        Ok(Some(Entry { path, kind }))
    }

    fn into_kind(mut self, path: &EntryPath, data: (u64, u64)) -> Result<Kind> {
        if self.kind == RawKind::HardLink {
            return self.hard_link(path);
        }
        let attributes = self.attributes(path)?;
        Ok(match self.kind {
            RawKind::File => {
                let (size, segments) = self.content(path, data)?;
                Kind::File { attributes, size, segments }
            }
            RawKind::Symlink => Kind::Symlink { attributes, target: self.symlink_target(path)? },
            RawKind::CharDevice => {
                let (major, minor) = self.device(path)?;
                Kind::CharDevice { attributes, major, minor }
            }
            RawKind::BlockDevice => {
                let (major, minor) = self.device(path)?;
                Kind::BlockDevice { attributes, major, minor }
            }
            RawKind::Fifo => Kind::Fifo(attributes),
            RawKind::Directory | RawKind::HardLink => Kind::Directory(attributes),
        })
    }

    fn hard_link(&self, path: &EntryPath) -> Result<Kind> {
        let refuse = |problem| LayerError::LinkTarget { path: path.shown(), problem };
        let target = EntryPath::parse(&self.link).map_err(refuse)?;
        if target.is_root() {
            return Err(refuse(PathProblem::Root));
        }
        Ok(Kind::HardLink { target })
    }

    fn symlink_target(&mut self, path: &EntryPath) -> Result<Vec<u8>> {
        let target = std::mem::take(&mut self.link);
        if entry::is_sound_target(&target) {
            return Ok(target);
        }
        let problem = match target.len() {
            0 => PathProblem::Root,
            long if long > entry::MAX_TARGET_BYTES => PathProblem::TooLong,
            _ => PathProblem::Nul,
        };
        Err(LayerError::LinkTarget { path: path.shown(), problem })
    }

    fn attributes(&mut self, path: &EntryPath) -> Result<Attributes> {
        let xattrs = std::mem::take(&mut self.records.xattrs);
        if !entry::fits_xattrs(xattrs.iter()) {
            return Err(LayerError::Xattr { path: path.shown() });
        }
        let mtime = self.records.mtime.unwrap_or_default();
        Ok(Attributes {
            // Old writers put the file type into the bits above.
            mode: u16::try_from(self.mode & 0o7777).unwrap_or_default(),
            uid: owner(self.uid, path, "uid")?,
            gid: owner(self.gid, path, "gid")?,
            mtime: mtime.seconds,
            mtime_nsec: mtime.nanoseconds,
            xattrs,
        })
    }

    fn content(&self, path: &EntryPath, data: (u64, u64)) -> Result<(u64, Vec<entry::Segment>)> {
        let whole = [(0, data.1)];
        let (size, runs) = match &self.sparse {
            Some(sparse) => (sparse.size, sparse.runs.as_slice()),
            None => (data.1, whole.as_slice()),
        };
        let segments = entry::lay_out(path, size, runs, data)?;
        if size > entry::MAX_FILE_BYTES {
            return Err(LayerError::Sparse { path: path.shown(), problem: SparseProblem::Runs });
        }
        Ok((size, segments))
    }

    fn device(&self, path: &EntryPath) -> Result<(u32, u32)> {
        let part = |value: i64, most| u32::try_from(value).ok().filter(|value| *value <= most);
        let numbers = part(self.device.0, MAX_MAJOR).zip(part(self.device.1, MAX_MINOR));
        numbers.ok_or_else(|| LayerError::Device { path: path.shown() })
    }
}

// === impl RawKind ===

impl RawKind {
    /// Types of POSIX ustar, and GNU's old sparse file. Others are refused, as all other runtimes do: what they would be is
    /// unknown, and an image without them would not be the one that was published.
    fn of(header: Header<'_>, name: &[u8]) -> Result<Self> {
        match header.flag() {
            // Before POSIX, a directory was a file whose name ends in a slash.
            0 if name.ends_with(b"/") => Ok(Self::Directory),
            0 | b'0' | b'7' => Ok(Self::File),
            b'1' => Ok(Self::HardLink),
            b'2' => Ok(Self::Symlink),
            b'3' => Ok(Self::CharDevice),
            b'4' => Ok(Self::BlockDevice),
            b'5' => Ok(Self::Directory),
            b'6' => Ok(Self::Fifo),
            b'S' if header.format() == Format::Gnu => Ok(Self::File),
            flag => Err(LayerError::UnknownType { path: Shown::new(name), flag }),
        }
    }
}

// === impl Sparse ===

impl Sparse {
    /// The map that the headers hold or announce, if any.
    fn of(header: Header<'_>, records: &mut SparseRecords, stored: u64) -> Result<Option<Self>, SparseProblem> {
        let old = header.flag() == b'S';
        let sparse = match (records.major, records.minor) {
            (None, None) if records.map.is_none() => {
                return if old { Self::of_old_gnu(header).map(Some) } else { Ok(None) };
            }
            (None, None) | (Some(0), Some(0 | 1)) => Self {
                size: records.size.unwrap_or(stored),
                runs: pairs(records.map.take().as_deref(), records.count)?,
                rest: MapRest::Complete,
            },
            (Some(1), Some(0)) => Self { size: records.size.unwrap_or(stored), runs: Vec::new(), rest: MapRest::Text },
            _ => return Err(SparseProblem::Version),
        };
        if old || !matches!(header.flag(), 0 | b'0' | b'7') {
            return Err(SparseProblem::NotAFile);
        }
        Ok(Some(sparse))
    }

    fn of_old_gnu(header: Header<'_>) -> Result<Self, SparseProblem> {
        let size = header.sparse_size().ok_or(SparseProblem::Malformed)?;
        let first = header.sparse_runs().ok_or(SparseProblem::Malformed)?;
        let rest = if first.more { MapRest::Blocks } else { MapRest::Complete };
        Ok(Self { size, runs: first.runs, rest })
    }
}

/// Offsets and lengths in turn as runs; as many as announced, if the number was.
fn pairs(map: Option<&[u64]>, count: Option<u64>) -> Result<Vec<(u64, u64)>, SparseProblem> {
    let numbers = match (map, count) {
        (None, Some(0)) => &[],
        (map, _) => map.ok_or(SparseProblem::Malformed)?,
    };
    let (pairs, odd) = numbers.as_chunks::<2>();
    let complete = count.is_none_or(|count| u64::try_from(pairs.len()) == Ok(count));
    if !odd.is_empty() || !complete {
        return Err(SparseProblem::Malformed);
    }
    Ok(pairs.iter().map(|[offset, length]| (*offset, *length)).collect())
}

/// A name that a GNU and a PAX header may both give, if they agree.
fn one_of(gnu: Option<Vec<u8>>, pax: Option<Vec<u8>>, at: u64) -> Result<Option<Vec<u8>>> {
    match (gnu, pax) {
        (Some(gnu), Some(pax)) if gnu != pax => Err(LayerError::ContradictingNames { at }),
        (gnu, pax) => Ok(pax.or(gnu)),
    }
}

fn owner(id: i64, path: &EntryPath, field: &'static str) -> Result<u32> {
    let id = u32::try_from(id).ok().filter(|id| *id <= MAX_ID);
    id.ok_or_else(|| LayerError::Owner { path: path.shown(), field })
}
