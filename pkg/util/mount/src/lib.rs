//! Mounts: images are staged once on a node and cloned for each pod, all by descriptor and read-only.
//!
//! In come open image files and directories; out come mounts, or an error that names the step, the path and what the
//! kernel said. It never decides what is to be mounted, never follows a path that somebody else can change, and never
//! blocks on anything but system calls. Floor 1: it imports no other crate of this workspace, and is the only one with
//! `unsafe` code (module `sys`) and with mount system calls.
#![deny(unsafe_code)]

mod context;
mod error;
mod file_kind;
mod handle;
mod interface;
mod kernel;
mod lease;
mod loop_device;
mod mount_point;
mod mountinfo;
pub mod probe;
mod resolve;
pub mod safe_dir;
mod stats;
mod sub_path;
mod superblock;
mod sys;
mod uncached;

pub use error::{MountError, Result};
pub use file_kind::FileKind;
pub use handle::{Attributes, Backend, DetachedMount, Exec, MountKind, Source, StagedImage, Unmounted};
pub use interface::Interface;
pub use kernel::Kernel;
pub use lease::{WriteLease, in_use};
pub use mount_point::{is_mount_point, is_mounted_at};
pub use mountinfo::{DeviceNumber, MountPoint};
pub use probe::{NoBackend, ProbeReport, Requested, choose, probe};
pub use safe_dir::{DirError, SafeDir};
pub use stats::{FsStats, filesystem};
pub use sub_path::{SubPath, SubPathError};
pub use uncached::{UncachedBuffer, UncachedFile};
