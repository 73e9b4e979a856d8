//! Writes metadata-only, multi-device EROFS images: names, owners, modes and times in one small file, the bytes of files on
//! other devices (a layer's tar, an artifact's blob) that the image points into.
//!
//! In: a [`Tree`] and a list of [`Device`]s. Out: bytes of an image that the kernel mounts (`fs/erofs/erofs_fs.h` is the format), and
//! from such bytes the devices again. It reads no file system and follows no name. Floor 0: imports no crate of this workspace.

#![forbid(unsafe_code)]

mod chunk;
mod device;
mod directory;
mod error;
mod format;
mod header;
mod layout;
mod output;
mod tree;
mod walk;
mod write;
mod xattr;

pub use device::{Device, DeviceTag, TagError};
pub use error::{EntryPath, ExtentError, HeaderError, NodeError, WriteError, XattrError};
pub use header::{Header, read_devices, read_header};
pub use tree::{Attributes, Content, Extent, Node, NodeId, Tree};
pub use write::{Limits, Written, write};
