//! OCI image layouts and docker archives: what others wrote to a directory or a tar becomes closed types and bounded readers.
//!
//! In: a directory that is reached by descriptor alone, or a tar that is read where it lies, never unpacked. Out: images by name, checked
//! documents, readers of blobs that end where the descriptor says. It never writes, follows no symlink out of what it was given, and
//! trusts no size, name or digest: documents are hashed here, blobs where they are stored.
//! Floor 3: imports `registry` (documents and platforms), `store` (decompression), `layer` (tars), `mount`, `base`, `api`.

#![forbid(unsafe_code)]

mod archive;
mod blob;
mod catalog;
mod docker;
mod error;
mod layout;
mod name;
mod place;

pub use archive::{Archive, ArchiveLimits};
pub use blob::Blob;
pub use catalog::Catalog;
pub use error::{LayoutError, Result};
pub use layout::{Candidate, Found, Layout, Stamp};
