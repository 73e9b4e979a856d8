//! What can be wrong with a layout.

use std::io;

use imagevol_api::oci::Digest;
use imagevol_layer::LayerError;
use imagevol_mount::DirError;
use imagevol_registry::{ManifestError, Platform};

/// A result of reading a layout.
pub type Result<T, E = LayoutError> = std::result::Result<T, E>;

/// One step that failed.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A directory or file of the layout could not be opened.
    #[error("cannot open {what:?}")]
    Open {
        /// The path inside the layout.
        what: String,
        /// What the kernel says.
        #[source]
        source: DirError,
    },
    /// A file of the layout could not be read.
    #[error("cannot read {what:?}")]
    Read {
        /// The path inside the layout.
        what: String,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// The archive that comes in could not be kept.
    #[error("cannot keep the archive")]
    Keep(#[source] io::Error),
    /// The archive stopped coming, or cannot be decompressed.
    #[error("archive cannot be read")]
    Source(#[source] io::Error),
    /// The archive is compressed in a way that is not read here.
    #[error("archive is compressed with {by}, and only gzip and zstd can be read: send it through `{by} -dc` first")]
    Compression {
        /// The program that decompresses it.
        by: &'static str,
    },
    /// The archive is no tar that can be read.
    #[error("archive is no tar that can be read")]
    Tar(#[from] LayerError),
    /// The archive is larger, decompressed, than is allowed.
    #[error("archive is larger than {limit} bytes")]
    ArchiveTooLarge {
        /// In bytes.
        limit: u64,
    },
    /// A name stands for two things.
    #[error("{what:?} is twice in the archive")]
    Twice {
        /// The path inside the archive.
        what: String,
    },
    /// It is not there.
    #[error("{what:?} is not there")]
    Absent {
        /// The path inside the layout.
        what: String,
    },
    /// A blob that an index or a manifest names is not there.
    #[error("blob {digest} is missing")]
    AbsentBlob {
        /// Which.
        digest: Digest,
    },
    /// It is neither an OCI image layout nor a docker archive.
    #[error(
        "neither oci-layout with index.json nor manifest.json is at the top: this is no OCI image layout and no docker archive"
    )]
    Unknown,
    /// The layout is of a version that is not known (image spec, image-layout.md, "oci-layout file").
    #[error("image layout version {version:?} is not known")]
    Version {
        /// What the file says.
        version: String,
    },
    /// Something that must be a file is a link out of the layout, or is stored as a sparse file.
    #[error("{what:?} is no plain file")]
    NotAFile {
        /// The path inside the layout.
        what: String,
    },
    /// A document is larger than is allowed.
    #[error("{what:?} has {size} bytes; at most {limit} are allowed")]
    TooLarge {
        /// The path inside the layout.
        what: String,
        /// In bytes.
        size: u64,
        /// In bytes.
        limit: u64,
    },
    /// A blob is not as long as its descriptor says.
    #[error("blob {digest} has {actual} bytes, and its descriptor says {expected}")]
    Size {
        /// The blob.
        digest: Digest,
        /// The descriptor's.
        expected: u64,
        /// The file's.
        actual: u64,
    },
    /// A document is not what its digest says.
    #[error("blob {expected} is not what its digest says: its content is {actual}")]
    Digest {
        /// What was promised.
        expected: Digest,
        /// What is there.
        actual: Digest,
    },
    /// A document is no manifest and no index.
    #[error("{what:?} cannot be used")]
    Manifest {
        /// The path inside the layout, or a digest.
        what: String,
        /// What is wrong with it.
        #[source]
        source: ManifestError,
    },
    /// A file of JSON has another form.
    #[error("{what:?} cannot be read")]
    Json {
        /// The path inside the layout.
        what: String,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// A docker archive contradicts itself.
    #[error("manifest.json cannot be used: {reason}")]
    Docker {
        /// What is wrong.
        reason: String,
    },
    /// No image is for this platform.
    #[error("no image for platform {wanted}; there is {}", platforms(.available))]
    Platform {
        /// What was asked for.
        wanted: Platform,
        /// What is there.
        available: Vec<Platform>,
    },
}

// === impl LayoutError ===

impl LayoutError {
    /// Whether the bytes themselves are wrong, rather than the disk, the network or the node.
    pub fn is_content(&self) -> bool {
        match self {
            Self::Open { .. } | Self::Read { .. } | Self::Keep(_) | Self::Source(_) => false,
            Self::Compression { .. }
            | Self::Tar(_)
            | Self::ArchiveTooLarge { .. }
            | Self::Twice { .. }
            | Self::Absent { .. }
            | Self::AbsentBlob { .. }
            | Self::Unknown
            | Self::Version { .. }
            | Self::NotAFile { .. }
            | Self::TooLarge { .. }
            | Self::Size { .. }
            | Self::Digest { .. }
            | Self::Manifest { .. }
            | Self::Json { .. }
            | Self::Docker { .. }
            | Self::Platform { .. } => true,
        }
    }

    /// Whether the node's disk has no room for an archive.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Keep(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }

    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent { .. } | Self::AbsentBlob { .. })
    }
}

fn platforms(available: &[Platform]) -> String {
    if available.is_empty() {
        return "none".to_owned();
    }
    available.iter().map(Platform::to_string).collect::<Vec<_>>().join(", ")
}
