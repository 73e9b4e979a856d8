//! Mounts held by descriptor, and what they are made from.

use std::{
    fmt,
    fs::File,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use crate::DeviceNumber;

/// The ways to put an EROFS image before the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Backend {
    /// The files themselves (Linux 6.12 and later, not on tmpfs or overlayfs).
    Erofs,
    /// A loop device for each file (512-byte blocks over several devices: Linux 6.4 and later).
    ErofsLoop,
}

/// An image to be mounted: the index file, and the files that hold the data, in the order of the image's device
/// slots. All are open for reading; the kernel opens them anew, so that they may be closed once mounted.
#[derive(Debug)]
pub enum Source {
    /// For [`Backend::Erofs`].
    Erofs {
        /// The file with the superblock.
        image: File,
        /// Devices 1 and following.
        devices: Vec<File>,
    },
    /// For [`Backend::ErofsLoop`].
    ErofsLoop {
        /// The file with the superblock.
        image: File,
        /// Devices 1 and following.
        devices: Vec<File>,
    },
}

/// A mounted image from which clones are made. Dropping it closes a descriptor; the mount stays.
#[derive(Debug)]
pub struct StagedImage {
    fd: OwnedFd,
    device: DeviceNumber,
    at: PathBuf,
}

/// A mount that is attached nowhere: nobody else can see it, and dropping it unmounts it.
#[derive(Debug)]
pub struct DetachedMount {
    fd: OwnedFd,
    kind: MountKind,
}

/// What a mount's root is, and so what it can be attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MountKind {
    /// A directory, to be attached to a directory.
    Directory,
    /// A regular file, to be attached to a regular file.
    File,
}

/// How a clone differs from the others. All are read-only, without set-uid programs and device nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Attributes {
    /// Whether programs in it can be run.
    pub exec: Exec,
}

/// Whether programs in a mount can be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Exec {
    /// They can. The default, as in KEP-4639, which dropped its demand for `noexec`.
    #[default]
    Allow,
    /// They cannot: `noexec`.
    Deny,
}

/// What an unmount found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmounted {
    /// Nothing was mounted there, or nothing is there at all.
    WasNotMounted,
    /// All mounts there were removed.
    Removed {
        /// How many were stacked, 1 or more.
        mounts: u32,
    },
}

// === impl Backend ===

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Erofs => "erofs",
            Self::ErofsLoop => "erofs-loop",
        })
    }
}

// === impl MountKind ===

impl fmt::Display for MountKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Directory => "directory",
            Self::File => "regular file",
        })
    }
}

// === impl Source ===

impl Source {
    /// The source for a back end.
    pub fn new(backend: Backend, image: File, devices: Vec<File>) -> Self {
        match backend {
            Backend::Erofs => Self::Erofs { image, devices },
            Backend::ErofsLoop => Self::ErofsLoop { image, devices },
        }
    }

    /// The back end that it is for.
    pub fn backend(&self) -> Backend {
        match self {
            Self::Erofs { .. } => Backend::Erofs,
            Self::ErofsLoop { .. } => Backend::ErofsLoop,
        }
    }

    /// The file with the superblock.
    pub fn image(&self) -> &File {
        match self {
            Self::Erofs { image, .. } | Self::ErofsLoop { image, .. } => image,
        }
    }

    /// Devices 1 and following.
    pub fn devices(&self) -> &[File] {
        match self {
            Self::Erofs { devices, .. } | Self::ErofsLoop { devices, .. } => devices,
        }
    }
}

// === impl StagedImage ===

impl StagedImage {
    /// Puts a handle together; for implementations of [`Interface`](crate::Interface). `fd` is the root of a mount
    /// of the whole image.
    pub fn new(fd: OwnedFd, device: DeviceNumber, at: PathBuf) -> Self {
        Self { fd, device, at }
    }

    /// The superblock's number; all clones have the same.
    pub fn device(&self) -> DeviceNumber {
        self.device
    }

    /// Where it is mounted.
    pub fn at(&self) -> &Path {
        &self.at
    }
}

impl AsFd for StagedImage {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

// === impl DetachedMount ===

impl DetachedMount {
    /// Puts a handle together; for implementations of [`Interface`](crate::Interface). `fd` is the root of a mount
    /// that is attached nowhere.
    pub fn new(fd: OwnedFd, kind: MountKind) -> Self {
        Self { fd, kind }
    }

    /// What its root is.
    pub fn kind(&self) -> MountKind {
        self.kind
    }
}

impl AsFd for DetachedMount {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A path by which the kernel reaches an open file, whatever has become of its name.
pub(crate) fn proc_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// The path of an open file as the kernel knows it; for messages only.
pub(crate) fn path_of(fd: BorrowedFd<'_>) -> PathBuf {
    let link = proc_path(fd);
    std::fs::read_link(&link).unwrap_or(link)
}
