//! What can be wrong with a layer, an index, a merge or an artifact.

use std::fmt;

/// How many bytes of an untrusted name an error shows: the longest single file name of Linux (`NAME_MAX`).
const SHOWN_BYTES: usize = 255;

/// An untrusted name in a form that is safe in a log line or an event: escaped to printable ASCII, cut at 255 bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Shown(Box<str>);

/// Why a name cannot be a path of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathProblem {
    /// Nothing is left of it, or it names the root where only a directory may.
    #[error("it names the root")]
    Root,
    /// It has a NUL byte.
    #[error("it contains a NUL byte")]
    Nul,
    /// It has a `..` component.
    #[error("it contains a parent directory component")]
    Parent,
    /// It is longer than [`crate::MAX_PATH_BYTES`].
    #[error("it is longer than 4096 bytes")]
    TooLong,
    /// One component is longer than [`crate::MAX_NAME_BYTES`].
    #[error("a component is longer than 255 bytes")]
    NameTooLong,
    /// A whiteout that hides nothing, the directory itself or its parent (`.wh.`, `.wh..`, `.wh...`).
    #[error("it is a whiteout of no file")]
    Whiteout,
    /// It is absolute where only a relative name may be (titles).
    #[error("it is absolute")]
    Absolute,
    /// It has a control character (titles).
    #[error("it contains a control character")]
    Control,
}

/// Why a sparse file cannot be pointed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SparseProblem {
    /// The map is no map: a number is missing or is none.
    #[error("its map is malformed")]
    Malformed,
    /// The map's version is not 0.0, 0.1 or 1.0.
    #[error("the version of its map is unknown")]
    Version,
    /// Runs overlap, go backwards or end beyond the file.
    #[error("its runs overlap or end beyond the file")]
    Runs,
    /// The runs are not as long together as the data in the archive.
    #[error("its runs do not cover the data in the archive")]
    Length,
    /// A run does not start and end on 512-byte blocks: nothing can point at it without a copy.
    #[error("its runs are not aligned to 512 bytes")]
    Unaligned,
    /// The entry has a sparse map and is no regular file.
    #[error("it is no regular file")]
    NotAFile,
}

/// What is wrong with the bytes of a stored index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IndexProblem {
    /// It does not begin as an index does.
    #[error("it is no layer index")]
    Magic,
    /// Another version wrote it.
    #[error("its version is {0}")]
    Version(u32),
    /// It ends too early or goes on too long.
    #[error("its length is wrong")]
    Length,
    /// Its bytes changed since it was written.
    #[error("its checksum is wrong")]
    Checksum,
    /// A record holds a value that no parsed archive leads to.
    #[error("a record is malformed")]
    Record,
}

/// A header that stands before the entry it describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extension {
    /// PAX records for one entry (`x`).
    Pax,
    /// PAX records for all later entries (`g`).
    Global,
    /// GNU long name (`L`).
    LongName,
    /// GNU long link target (`K`).
    LongLink,
}

/// Why a layer, an index, a merge or an artifact was refused. Positions are bytes from the start of the archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayerError {
    /// The archive has no bytes at all.
    #[error("the archive is empty")]
    Empty,
    /// The archive ends inside a header, a file's data or its padding.
    #[error("the archive is cut off at byte {at}")]
    Truncated {
        /// Where it ends.
        at: u64,
    },
    /// [`crate::Parser::feed`] was called again after it had failed.
    #[error("the archive was already refused")]
    AlreadyRefused,
    /// The bytes at a header's place are no tar header.
    #[error("no valid tar header at byte {at}: wrong checksum")]
    Checksum {
        /// Where the header starts.
        at: u64,
    },
    /// One zero block followed by something else: readers disagree about whether the archive ended.
    #[error("a lone zero block before byte {at}")]
    LoneZeroBlock {
        /// Where the block after it starts.
        at: u64,
    },
    /// A numeric header field holds no number, or one that is negative or too large for its use.
    #[error("the {field} field of the header at byte {at} is out of range")]
    Number {
        /// Where the header starts.
        at: u64,
        /// Which field.
        field: &'static str,
    },
    /// The headers before one entry are larger than [`crate::Limits::max_metadata_bytes`].
    #[error("the metadata of the entry at byte {at} exceeds {limit} bytes")]
    MetadataTooLarge {
        /// Where the header that is too much starts.
        at: u64,
        /// The limit.
        limit: u64,
    },
    /// Two headers of one kind before one entry: readers disagree about which one counts.
    #[error("{extension} repeated at byte {at}")]
    Repeated {
        /// Where the second one starts.
        at: u64,
        /// Which kind.
        extension: Extension,
    },
    /// A header that describes an entry, and no entry after it.
    #[error("no entry follows the extended header before byte {at}")]
    Dangling {
        /// Where the entry would start.
        at: u64,
    },
    /// PAX records that cannot be split into keys and values.
    #[error("malformed PAX records at byte {at}")]
    PaxRecord {
        /// Where the records' header starts.
        at: u64,
    },
    /// A PAX value that is none for its key.
    #[error("invalid PAX value of {key} at byte {at}")]
    PaxValue {
        /// Where the records' header starts.
        at: u64,
        /// The key.
        key: Shown,
    },
    /// A global PAX header sets what can only belong to one entry: readers disagree about what it applies to.
    #[error("global PAX header at byte {at} sets {key}")]
    PaxGlobal {
        /// Where the header starts.
        at: u64,
        /// The key.
        key: Shown,
    },
    /// A GNU and a PAX header give one entry two names or two targets: readers disagree about which one counts.
    #[error("contradicting names for the entry at byte {at}")]
    ContradictingNames {
        /// Where the entry's header starts.
        at: u64,
    },
    /// An entry of a type that no file system has (volume labels, multi-volume parts, vendors' own).
    #[error("{path}: unknown tar entry type {flag:#04x}")]
    UnknownType {
        /// Its name.
        path: Shown,
        /// Its type flag.
        flag: u8,
    },
    /// A name that cannot be a path of an image.
    #[error("{path}: refused: {problem}")]
    Path {
        /// The name.
        path: Shown,
        /// Why.
        problem: PathProblem,
    },
    /// A link target that cannot be one.
    #[error("{path}: link target refused: {problem}")]
    LinkTarget {
        /// The link's name.
        path: Shown,
        /// Why.
        problem: PathProblem,
    },
    /// An owner or group that Linux cannot express (`(uid_t) -1` means "no change" in chown(2)).
    #[error("{path}: {field} is out of range")]
    Owner {
        /// The entry's name.
        path: Shown,
        /// `uid` or `gid`.
        field: &'static str,
    },
    /// Device numbers beyond 12 bits of major or 20 bits of minor.
    #[error("{path}: device number is out of range")]
    Device {
        /// The entry's name.
        path: Shown,
    },
    /// An extended attribute that Linux cannot express, or too many bytes of them.
    #[error("{path}: extended attributes are too long")]
    Xattr {
        /// The entry's name.
        path: Shown,
    },
    /// A sparse file that cannot be pointed at.
    #[error("{path}: sparse file refused: {problem}")]
    Sparse {
        /// The file's name.
        path: Shown,
        /// Why.
        problem: SparseProblem,
    },
    /// More than [`crate::Limits::max_entries`].
    #[error("more than {limit} entries")]
    TooManyEntries {
        /// The limit.
        limit: u64,
    },
    /// More than [`crate::Limits::max_index_bytes`].
    #[error("the layer index exceeds {limit} bytes")]
    IndexTooLarge {
        /// The limit.
        limit: u64,
    },
    /// A stored index that cannot be used; parsing the layer again makes a new one.
    #[error("layer index refused: {problem}")]
    Index {
        /// Why.
        problem: IndexProblem,
    },
    /// More layers than a device table can number.
    #[error("more than 65535 layers")]
    TooManyLayers,
    /// A parent of the path is neither a directory nor a symlink to one.
    #[error("{path}: a parent is no directory")]
    ParentNotDirectory {
        /// The path.
        path: Shown,
    },
    /// More than [`crate::MAX_SYMLINKS`] symlinks on the way to a parent.
    #[error("{path}: too many levels of symbolic links")]
    SymlinkLoop {
        /// The path.
        path: Shown,
    },
    /// More than [`crate::Limits::max_symlink_steps`].
    #[error("{path}: symlinks lead through too many directories")]
    SymlinkSteps {
        /// The path at which it was reached.
        path: Shown,
    },
    /// Deeper than [`crate::MAX_DEPTH`] directories.
    #[error("{path}: directories nest too deeply")]
    TooDeep {
        /// The path.
        path: Shown,
    },
    /// A hard link to what does not exist (yet).
    #[error("{path}: hard link to {target}, which does not exist")]
    HardLinkMissing {
        /// The link.
        path: Shown,
        /// Its target.
        target: Shown,
    },
    /// A hard link to a directory.
    #[error("{path}: hard link to {target}, which is a directory")]
    HardLinkToDirectory {
        /// The link.
        path: Shown,
        /// Its target.
        target: Shown,
    },
    /// A hard link to its own name.
    #[error("{path}: hard link to itself")]
    HardLinkToSelf {
        /// The link.
        path: Shown,
    },
    /// A title that cannot be a file name.
    #[error("title {title} refused: {problem}")]
    Title {
        /// The title.
        title: Shown,
        /// Why.
        problem: PathProblem,
    },
    /// One item of an artifact needs a directory where another puts a file.
    #[error("title {title} names a file and a directory")]
    TitleConflict {
        /// The later item's title.
        title: Shown,
    },
}

/// Result of this crate's functions.
pub type Result<T, E = LayerError> = std::result::Result<T, E>;

// === impl Shown ===

impl Shown {
    /// Makes any bytes showable.
    pub fn new(bytes: &[u8]) -> Self {
        let cut = bytes.get(..SHOWN_BYTES).unwrap_or(bytes);
        let more = if cut.len() < bytes.len() { "..." } else { "" };
        Self(format!("\"{}{more}\"", cut.escape_ascii()).into_boxed_str())
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Extension ===

impl fmt::Display for Extension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pax => "PAX header",
            Self::Global => "global PAX header",
            Self::LongName => "GNU long name",
            Self::LongLink => "GNU long link",
        })
    }
}
