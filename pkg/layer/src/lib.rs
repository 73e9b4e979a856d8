//! Reads the tar of an OCI layer while it streams in, and merges layers into one image.
//!
//! In: bytes of an uncompressed tar, from the network or a disk, in pieces. Out: a [`LayerIndex`] per layer and, of many of them, one
//! [`imagevol_erofs::Tree`] whose files point at offsets in the tars. It never touches a file system: nothing is unpacked, so no name can
//! lead out of a root and no symlink is ever followed by a kernel. Floor 1: imports `imagevol-erofs` alone.

#![forbid(unsafe_code)]

#[cfg(test)]
mod archive;
pub mod artifact;
mod codec;
mod draft;
mod entry;
mod error;
mod header;
mod index;
mod limits;
mod merge;
mod number;
mod parser;
mod path;
mod pax;

pub use entry::{
    BLOCK, Entry, Kind, MAX_FILE_BYTES, MAX_ID, MAX_MAJOR, MAX_MINOR, MAX_TARGET_BYTES, MAX_XATTR_BYTES,
    MAX_XATTR_VALUE, Segment,
};
pub use error::{Extension, IndexProblem, LayerError, PathProblem, Result, Shown, SparseProblem};
pub use index::{Counts, INDEX_HEAD, LayerIndex};
pub use limits::Limits;
pub use merge::{MAX_DEPTH, MAX_SYMLINKS, Merger, merge};
pub use parser::Parser;
pub use path::{EntryPath, MAX_NAME_BYTES, MAX_PATH_BYTES};
