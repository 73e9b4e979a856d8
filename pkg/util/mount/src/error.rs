//! What can go wrong in mounting: one variant for each thing that a caller can tell apart.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use crate::{FileKind, MountKind, SubPath};

/// The result of this crate's mount operations.
pub type Result<T, E = MountError> = std::result::Result<T, E>;

/// A mount operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A system call failed.
    #[error("{op} failed for {}{}", at.display(), LogLines(kernel_log))]
    Kernel {
        /// The system call, with its command where it has several: `fsconfig(create)`.
        op: &'static str,
        /// The path that it was about.
        at: PathBuf,
        /// What the kernel wrote to the log of the mount context; empty for calls without one. It tells about
        /// options; why EROFS refuses an image is in the kernel's own log (dmesg).
        kernel_log: Vec<String>,
        /// The error number.
        source: io::Error,
    },
    /// The image file has no EROFS superblock that this crate understands.
    #[error("the image for {} is no EROFS image", at.display())]
    NotErofs {
        /// The staging directory.
        at: PathBuf,
    },
    /// The image refers to another number of devices than were given. The kernel would mount it all the same.
    #[error("the image for {} needs {needs} devices but was given {given}", at.display())]
    DeviceCount {
        /// The staging directory.
        at: PathBuf,
        /// What the image's superblock says.
        needs: u16,
        /// How many were given.
        given: usize,
    },
    /// A device file does not end at a block's end: its last bytes could not be read.
    #[error("device {device} of the image for {} is {size} bytes long, no multiple of {block_size}", at.display())]
    UnalignedDevice {
        /// The staging directory.
        at: PathBuf,
        /// Position among the devices, from 1 as in the image; 0 is the image itself.
        device: usize,
        /// Length of the file in bytes.
        size: u64,
        /// Block size of the image in bytes.
        block_size: u64,
    },
    /// There is a mount already where a new one was to go.
    #[error("{} is a mount point already", at.display())]
    AlreadyMounted {
        /// The occupied place.
        at: PathBuf,
    },
    /// A directory was to be mounted on a file or the other way round.
    #[error("{} is a {kind}, on which a {needs} cannot be mounted", at.display())]
    TargetKind {
        /// The place.
        at: PathBuf,
        /// What is there.
        kind: FileKind,
        /// What was to be mounted.
        needs: MountKind,
    },
    /// Something else than a whole EROFS image is mounted at the place of a staged image.
    #[error("{} holds a mount of {fs_type} (root {}), no whole EROFS image", at.display(), root.display())]
    NotAnImage {
        /// The staging directory.
        at: PathBuf,
        /// The type of the mounted file system.
        fs_type: String,
        /// The directory of that file system that is mounted.
        root: PathBuf,
    },
    /// The image holds nothing at this sub path.
    #[error("sub path {sub_path:?} does not exist in the image")]
    SubPathNotFound {
        /// The path asked for.
        sub_path: SubPath,
    },
    /// The sub path is neither a directory nor a regular file.
    #[error("sub path {sub_path:?} is a {kind}; only directories and regular files can be mounted")]
    SubPathKind {
        /// The path asked for.
        sub_path: SubPath,
        /// What is there.
        kind: FileKind,
    },
    /// The kernel refused to walk the sub path: a loop of symlinks, or a way out of the image.
    #[error("sub path {sub_path:?} cannot be resolved inside the image")]
    SubPathRefused {
        /// The path asked for.
        sub_path: SubPath,
        /// `ELOOP` or `EXDEV`.
        source: io::Error,
    },
    /// The kernel has no loop devices.
    #[error("{} is missing: the kernel's loop module is not loaded, or /dev is not the host's", control.display())]
    NoLoopControl {
        /// The control device.
        control: PathBuf,
    },
    /// The kernel has the loop device but `/dev` lacks its node.
    #[error("device node {} is missing: /dev must be the kernel's devtmpfs", node.display())]
    LoopNodeMissing {
        /// The node that was looked for.
        node: PathBuf,
    },
    /// Other processes took each free loop device first.
    #[error("no loop device could be had in {attempts} attempts")]
    LoopBusy {
        /// How often it was tried.
        attempts: u32,
    },
    /// Mounts kept appearing while they were being removed.
    #[error("{} is still a mount point after {removed} mounts were removed", at.display())]
    StillMounted {
        /// The place.
        at: PathBuf,
        /// How many were removed.
        removed: u32,
    },
    /// A line of the kernel's mount table could not be understood.
    #[error("unintelligible line in the mount table: {line:?}")]
    MountTable {
        /// The line.
        line: String,
    },
    /// Leases exist for regular files only.
    #[error("in-use test on a {kind}, which is no regular file")]
    LeaseOnOther {
        /// What was given.
        kind: FileKind,
    },
}

/// The kernel's log lines, each after a `; `.
struct LogLines<'a>(&'a [String]);

// === impl MountError ===

impl MountError {
    /// A failed system call without a log.
    pub fn call(op: &'static str, at: &Path, source: impl Into<io::Error>) -> Self {
        Self::Kernel { op, at: at.to_owned(), kernel_log: Vec::new(), source: source.into() }
    }

    /// Whether the disk is full, or as full as it may get.
    pub fn is_no_space(&self) -> bool {
        let is_full =
            |error: &io::Error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        matches!(self, Self::Kernel { source, .. } if is_full(source))
    }

    /// The error number of the system call that failed, where there is one.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::Kernel { source, .. } | Self::SubPathRefused { source, .. } => source.raw_os_error(),
            Self::NotErofs { .. }
            | Self::DeviceCount { .. }
            | Self::UnalignedDevice { .. }
            | Self::AlreadyMounted { .. }
            | Self::TargetKind { .. }
            | Self::NotAnImage { .. }
            | Self::SubPathNotFound { .. }
            | Self::SubPathKind { .. }
            | Self::NoLoopControl { .. }
            | Self::LoopNodeMissing { .. }
            | Self::LoopBusy { .. }
            | Self::StillMounted { .. }
            | Self::MountTable { .. }
            | Self::LeaseOnOther { .. } => None,
        }
    }
}

// === impl LogLines ===

impl fmt::Display for LogLines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|line| write!(f, "; {line}"))
    }
}
