//! What can go wrong with the store.

use std::io;
use std::path::{Path, PathBuf};

use imagevol_api::oci::Digest;
use imagevol_base::size::binary;

/// A result of the store.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// One step that failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file could not be read or written.
    #[error("cannot {op} {}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The database could not be opened: it is missing, damaged, or another program's.
    #[error("cannot open database {}", path.display())]
    Open {
        /// Its file.
        path: PathBuf,
        /// What redb says.
        #[source]
        source: Box<redb::Error>,
    },
    /// The database could not be read or written.
    #[error("database of the store")]
    Database(#[source] Box<redb::Error>),
    /// Another process works on the state directory.
    #[error("another imagevold runs on {}", .0.display())]
    Locked(PathBuf),
    /// A row cannot be read: it was written by another version, or the disk lied.
    #[error("row {key:?} of table {table}")]
    Row {
        /// The table.
        table: &'static str,
        /// The row's key.
        key: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A row's key names nothing that this version knows.
    #[error("row {key:?} of table {table} has a key that cannot be read")]
    Key {
        /// The table.
        table: &'static str,
        /// The row's key.
        key: String,
    },
    /// The state directory was written by a version that this one does not understand.
    #[error("state format {found} is not known to this version, which writes {known}")]
    Format {
        /// The version found.
        found: u64,
        /// The version known.
        known: u64,
    },
    /// The content is not what its digest says.
    #[error("content does not match its digest: expected {expected}, got {actual}")]
    DigestMismatch {
        /// What was promised.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// The uncompressed layer is not what the image's configuration says (`rootfs.diff_ids`).
    #[error("layer does not match its diffID: expected {expected}, got {actual}")]
    DiffIdMismatch {
        /// What was promised.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// More or fewer bytes came than the descriptor says.
    #[error("content is {actual} bytes long, expected {expected}")]
    SizeMismatch {
        /// What was promised.
        expected: u64,
        /// What came; at least that many, where more came.
        actual: u64,
    },
    /// The layer is larger, unpacked, than is allowed.
    #[error("uncompressed layer is larger than {} (limits.maxLayerBytes, limits.maxImageBytes)", binary(*limit))]
    TooLarge {
        /// The limit, bytes.
        limit: u64,
    },
    /// A layer that is being unpacked would take what is to be left free.
    #[error("only {} are free on the disk, of which {} are kept free", binary(*free), binary(*kept))]
    NoRoom {
        /// Free on the file system, bytes.
        free: u64,
        /// What is left free, bytes.
        kept: u64,
        /// What the download has come to by then, bytes.
        unpacked: u64,
    },
    /// A layer that is being unpacked would take more than all images may.
    #[error("images would take more than {} (limits.maxStoreBytes)", binary(*limit))]
    OverQuota {
        /// The limit, bytes.
        limit: u64,
        /// What the download has come to by then, bytes.
        unpacked: u64,
    },
    /// The file system does not say how full it is.
    #[error("free space of {}", path.display())]
    Space {
        /// The state directory.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: imagevol_mount::MountError,
    },
    /// The bytes stopped coming.
    #[error("content stopped coming after {at} bytes")]
    Source {
        /// How many had come.
        at: u64,
        /// What the reader says.
        #[source]
        source: io::Error,
    },
    /// A download went on from bytes of an earlier try, and the whole is wrong. Those bytes are deleted: the next try begins anew,
    /// and only if it fails too is the content to blame.
    #[error("download that went on after {at} bytes failed, and begins anew")]
    Resumed {
        /// How many bytes were here.
        at: u64,
        /// What is wrong.
        #[source]
        source: Box<StoreError>,
    },
    /// The compressed stream is broken.
    #[error("layer cannot be decompressed ({compression})")]
    Inflate {
        /// `gzip` or `zstd`.
        compression: &'static str,
        /// What the decoder says.
        #[source]
        source: io::Error,
    },
    /// The layer is no tar that can be mounted.
    #[error("layer cannot be used")]
    Layer(#[from] imagevol_layer::LayerError),
    /// The stored index of a layer cannot be read.
    #[error("cannot read layer index {}", path.display())]
    Index {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: imagevol_layer::LayerError,
    },
    /// A file of the store is not what its digest says: the disk lied, or somebody wrote to it.
    #[error("{} is damaged: its content is {actual}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The digest of what is there.
        actual: Digest,
    },
    /// A layer of an image is no tar but a blob, which only artifacts have.
    #[error("{0} is no layer of an image")]
    NotALayer(String),
    /// The layers do not make an image.
    #[error("image cannot be written")]
    Erofs(#[from] imagevol_erofs::WriteError),
    /// A digest cannot tag a device.
    #[error("device table")]
    DeviceTag(#[from] imagevol_erofs::TagError),
    /// The kernel does not say whether a file is in use.
    #[error("in-use test of {}", path.display())]
    InUseTest {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: imagevol_mount::MountError,
    },
    /// Content that the image names is not (any more) there.
    #[error("content {0} is missing")]
    MissingContent(String),
    /// No such image.
    #[error("no image {0}")]
    NoImage(String),
    /// The image has holders.
    #[error("image is in use by {}", .0.join(", "))]
    InUse(Vec<String>),
    /// The image is pinned, or would be pinned no more.
    #[error("image is pinned by {}: unpin it first", .0.join(", "))]
    Pinned(Vec<String>),
    /// The image was used or pulled again since it was seen to be needed by nobody.
    #[error("image {0} has been used meanwhile")]
    UsedSince(Digest),
    /// An image file is still part of a mounted file system somewhere on the node.
    #[error("image {0} is still mounted")]
    Mounted(Digest),
}

// === impl StoreError ===

impl StoreError {
    /// Names the step and the path of an I/O error.
    pub(crate) fn io(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { op, path, source }
    }

    /// Whether the database refuses everything until it is opened anew, because a read or write has failed before.
    pub(crate) fn is_latched(&self) -> bool {
        matches!(self, Self::Database(error) if matches!(**error, redb::Error::PreviousIo | redb::Error::DatabaseClosed))
    }

    /// Whether the disk is full, or as full as it may get: the same will work when there is room again.
    pub fn is_no_space(&self) -> bool {
        let is_full =
            |error: &io::Error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        if let Self::Io { source, .. } = self {
            return is_full(source);
        }
        if let Self::Database(error) | Self::Open { source: error, .. } = self {
            return matches!(&**error, redb::Error::Io(source) if is_full(source));
        }
        matches!(self, Self::NoRoom { .. } | Self::OverQuota { .. })
    }

    /// How much a download had come to when there was no more room for it, where that is what ended it.
    pub fn unpacked(&self) -> Option<u64> {
        if let Self::NoRoom { unpacked, .. } | Self::OverQuota { unpacked, .. } = self {
            return Some(*unpacked);
        }
        None
    }

    /// Whether the content itself is wrong, so that the same bytes will fail again.
    pub fn is_content(&self) -> bool {
        match self {
            Self::DigestMismatch { .. }
            | Self::DiffIdMismatch { .. }
            | Self::SizeMismatch { .. }
            | Self::TooLarge { .. }
            | Self::Inflate { .. }
            | Self::Layer(_)
            | Self::NotALayer(_)
            | Self::Erofs(_) => true,
            Self::Io { .. }
            | Self::Open { .. }
            | Self::Database(_)
            | Self::Locked(_)
            | Self::Row { .. }
            | Self::Key { .. }
            | Self::Resumed { .. }
            | Self::NoRoom { .. }
            | Self::OverQuota { .. }
            | Self::Space { .. }
            | Self::Index { .. }
            | Self::Damaged { .. }
            | Self::Source { .. }
            | Self::Format { .. }
            | Self::DeviceTag(_)
            | Self::InUseTest { .. }
            | Self::MissingContent(_)
            | Self::NoImage(_)
            | Self::InUse(_)
            | Self::Pinned(_)
            | Self::UsedSince(_)
            | Self::Mounted(_) => false,
        }
    }
}

macro_rules! from_redb {
    ($($error:ident),*) => {
        $(impl From<redb::$error> for StoreError {
            fn from(error: redb::$error) -> Self {
                Self::Database(Box::new(error.into()))
            }
        })*
    };
}

from_redb!(Error, DatabaseError, TransactionError, TableError, StorageError, CommitError);
