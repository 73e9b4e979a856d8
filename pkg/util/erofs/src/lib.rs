//! Writes metadata-only, multi-device EROFS images: names, owners, modes and times in one small file, the bytes of files on
//! other devices (a layer's tar, an artifact's blob) that the image points into.
//!
//! In: a [`Tree`] and a list of devices. Out: bytes of an image that the kernel mounts (`fs/erofs/erofs_fs.h` is the format).
//! It reads no file system and follows no name. Floor 0: imports no crate of this workspace.

#![forbid(unsafe_code)]

mod tree;

pub use tree::{Attributes, Content, Extent, Node, NodeId, Tree};
