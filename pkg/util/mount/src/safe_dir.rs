//! Directories held by descriptor, walked one checked name at a time.
//!
//! Every step is one `openat2` with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS`: whatever
//! somebody else does to the tree meanwhile, nothing outside of it is reached.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use nix::{sys::stat::Mode, unistd::UnlinkatFlags};
use rustix::{
    fs::{Dir, FileType, OFlags, ResolveFlags},
    io::Errno,
};

use crate::{FileKind, mount_point, resolve::openat2};

mod remove;

/// How every name is resolved.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
/// For reading entries and for `fsync`; never waits for the other end of a named pipe, which `O_DIRECTORY` refuses.
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);
/// `NAME_MAX` of `<linux/limits.h>`.
const MAX_NAME: usize = 255;
/// Mode of a file that is there to be mounted over, as the kubelet makes them for single-file sub paths
/// (`doBindSubPath` in `pkg/volume/util/subpath/subpath_linux.go`).
const TARGET_MODE: Mode = Mode::from_bits_truncate(0o640);

/// The result of this module's operations.
pub type DirResult<T, E = DirError> = Result<T, E>;

/// A directory operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// A name is no single path component: empty, `.`, `..`, with `/` or NUL, or longer than a name can be.
    #[error("{name:?} is no name of a file in {}", dir.display())]
    Name {
        /// The directory.
        dir: PathBuf,
        /// The name.
        name: OsString,
    },
    /// A system call failed.
    #[error("{op} failed for {}", at.display())]
    Call {
        /// The system call.
        op: &'static str,
        /// What it was about.
        at: PathBuf,
        /// The error number.
        source: io::Error,
    },
    /// Something else is in the way of what was to be made.
    #[error("{} exists and is a {kind}", at.display())]
    InTheWay {
        /// Where.
        at: PathBuf,
        /// What it is.
        kind: FileKind,
    },
    /// A tree that was to be removed holds a mount. Where that was known before, nothing was removed.
    #[error("{} is a mount point, so that the tree around it is not removed", at.display())]
    MountInside {
        /// The mount point.
        at: PathBuf,
    },
    /// A tree that was to be removed is nested deeper than any of ours.
    #[error("{} is nested too deep to be removed", at.display())]
    TooDeep {
        /// The directory at the limit.
        at: PathBuf,
    },
}

/// An open directory beneath which files are reached by name only. See the module's head for what it guarantees.
#[derive(Debug)]
pub struct SafeDir {
    fd: OwnedFd,
    path: PathBuf,
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: OsString,
    /// What it is, when the directory was read.
    pub kind: FileKind,
}

// === impl DirError ===

impl DirError {
    /// The error number of the system call that failed, where there is one.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::Call { source, .. } => source.raw_os_error(),
            Self::Name { .. } | Self::InTheWay { .. } | Self::MountInside { .. } | Self::TooDeep { .. } => None,
        }
    }

    /// Whether the file does not exist.
    pub fn is_not_found(&self) -> bool {
        self.raw_os_error() == Some(libc::ENOENT)
    }

    fn call(op: &'static str, at: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::Call { op, at: at.into(), source: source.into() }
    }
}

// === impl SafeDir ===

impl SafeDir {
    /// Opens a directory that the administrator has chosen: symlinks on the way are followed, as `/var/run` may be
    /// one, but not the kernel's magic links.
    pub fn open(path: &Path) -> DirResult<Self> {
        let fd = openat2(rustix::fs::CWD, path, DIRECTORY, ResolveFlags::NO_MAGICLINKS)
            .map_err(|error| DirError::call("openat2", path, error))?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// The path that it was opened by, for messages and for the mount table. It may have moved since.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A second handle of the same directory.
    pub fn try_clone(&self) -> DirResult<Self> {
        let fd = self.fd.try_clone().map_err(|error| DirError::call("dup", &self.path, error))?;
        Ok(Self { fd, path: self.path.clone() })
    }

    /// Opens a directory in this one. If something is mounted on it, that is what is opened.
    pub fn open_dir(&self, name: impl AsRef<OsStr>) -> DirResult<Self> {
        let fd = self.openat(name.as_ref(), DIRECTORY)?;
        Ok(Self { fd, path: self.path.join(name.as_ref()) })
    }

    /// Makes a directory in this one with exactly the given permissions, and opens it. One that exists is opened as
    /// it is; anything else in the way, a symlink too, is an error.
    pub fn make_dir(&self, name: impl AsRef<OsStr>, mode: u32) -> DirResult<Self> {
        let name = self.check(name.as_ref())?;
        let mode = Mode::from_bits_truncate(mode);
        match nix::sys::stat::mkdirat(&self.fd, name, mode) {
            Ok(()) => {
                let dir = self.open_dir(name)?;
                // Killed here: the directory has fewer permissions than meant, by the umask, and keeps them. Never
                // more, and the daemon, as root, needs none.
                nix::sys::stat::fchmod(&dir.fd, mode).map_err(|error| DirError::call("fchmod", &dir.path, error))?;
                Ok(dir)
            }
            Err(nix::Error::EEXIST) => {
                self.expect_kind(name, FileKind::Directory)?;
                self.open_dir(name)
            }
            Err(error) => Err(self.failed("mkdirat", name, error)),
        }
    }

    /// Makes an empty regular file in this directory, to be mounted over, and opens it by `O_PATH`. A regular file
    /// that exists is opened as it is; anything else in the way, a symlink too, is an error.
    pub fn make_file(&self, name: impl AsRef<OsStr>) -> DirResult<OwnedFd> {
        let name = self.check(name.as_ref())?;
        // Killed after this line: an empty file, which the next try takes, or the removal of the volume's tree.
        match nix::sys::stat::mknodat(&self.fd, name, nix::sys::stat::SFlag::S_IFREG, TARGET_MODE, 0) {
            Ok(()) | Err(nix::Error::EEXIST) => {}
            Err(error) => return Err(self.failed("mknodat", name, error)),
        }
        self.expect_kind(name, FileKind::Regular)?;
        self.openat(name, OFlags::PATH)
    }

    /// Opens anything but a symlink in this directory by `O_PATH`: as a target to mount on, without any effect on
    /// what it is. If something is mounted on it, that is what is opened.
    pub fn open_path(&self, name: impl AsRef<OsStr>) -> DirResult<OwnedFd> {
        self.openat(name.as_ref(), OFlags::PATH)
    }

    /// Opens a regular file in this directory to be read. Anything else under this name, a symlink too, is an error, and opening has
    /// no effect on it.
    pub fn open_file(&self, name: impl AsRef<OsStr>) -> DirResult<File> {
        let name = self.check(name.as_ref())?;
        // A device may do something when it is opened, a named pipe waits.
        self.expect_kind(name, FileKind::Regular)?;
        let file = File::from(self.openat(name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?);
        // Somebody may have put another thing there meanwhile.
        let kind = file.metadata().map_err(|error| self.failed("fstat", name, error))?;
        if kind.is_file() { Ok(file) } else { Err(self.failed("openat2", name, Errno::INVAL)) }
    }

    /// Removes anything but a directory; a symlink itself, not what it points to.
    pub fn remove_file(&self, name: impl AsRef<OsStr>) -> DirResult<()> {
        self.unlinkat(name.as_ref(), UnlinkatFlags::NoRemoveDir)
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, name: impl AsRef<OsStr>) -> DirResult<()> {
        self.unlinkat(name.as_ref(), UnlinkatFlags::RemoveDir)
    }

    /// Removes a directory and all in it. Never follows a symlink and never crosses a mount: if anything is mounted
    /// on it or beneath it, nothing is removed and the error is [`DirError::MountInside`]. (If a mount comes while
    /// the removal is under way, that is the error as well, and what was removed before stays removed.)
    ///
    /// Killed meanwhile: a part of the tree is left under the same name, for the next call.
    pub fn remove_tree_no_xdev(&self, name: impl AsRef<OsStr>) -> DirResult<()> {
        remove::tree(self, self.check(name.as_ref())?)
    }

    /// What is in this directory, in no order.
    pub fn entries(&self) -> DirResult<Vec<Entry>> {
        let fail = |error: Errno| DirError::call("getdents", &self.path, error);
        let mut entries = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            // Gone since the directory was read: not an entry any more.
            let Some(kind) = self.kind_of(name, entry.file_type())? else { continue };
            entries.push(Entry { name: name.to_owned(), kind });
        }
        Ok(entries)
    }

    /// Whether something is mounted on an entry of this directory. What does not exist is no mount point.
    pub fn is_mount_point(&self, name: impl AsRef<OsStr>) -> DirResult<bool> {
        let name = self.check(name.as_ref())?;
        match mount_point::at(&self.fd, name).and_then(|stat| mount_point::is_root(&stat)) {
            Err(Errno::NOENT) => Ok(false),
            result => result.map_err(|error| self.failed("statx", name, error)),
        }
    }

    /// Makes changes to this directory's entries outlast a loss of power.
    pub fn sync(&self) -> DirResult<()> {
        nix::unistd::fsync(&self.fd).map_err(|error| DirError::call("fsync", &self.path, error))
    }

    /// Checks that a name is one path component.
    fn check<'n>(&self, name: &'n OsStr) -> DirResult<&'n OsStr> {
        let bytes = name.as_bytes();
        let fits = (1..=MAX_NAME).contains(&bytes.len()) && !bytes.iter().any(|byte| matches!(byte, b'/' | 0));
        if fits && name != "." && name != ".." {
            return Ok(name);
        }
        Err(DirError::Name { dir: self.path.clone(), name: name.to_owned() })
    }

    fn openat(&self, name: &OsStr, flags: OFlags) -> DirResult<OwnedFd> {
        let name = self.check(name)?;
        openat2(&self.fd, name, flags, BENEATH).map_err(|error| self.failed("openat2", name, error))
    }

    fn unlinkat(&self, name: &OsStr, flags: UnlinkatFlags) -> DirResult<()> {
        let name = self.check(name)?;
        nix::unistd::unlinkat(&self.fd, name, flags).map_err(|error| self.failed("unlinkat", name, error))
    }

    fn expect_kind(&self, name: &OsStr, expected: FileKind) -> DirResult<()> {
        match self.kind_of(name, FileType::Unknown)? {
            Some(kind) if kind == expected => Ok(()),
            Some(kind) => Err(DirError::InTheWay { at: self.path.join(name), kind }),
            None => Err(self.failed("statx", name, Errno::NOENT)),
        }
    }

    /// The kind of an entry, asked for where the directory did not tell. `None`: there is no such entry.
    fn kind_of(&self, name: &OsStr, told: FileType) -> DirResult<Option<FileKind>> {
        if told != FileType::Unknown {
            return Ok(Some(told.into()));
        }
        match mount_point::at(&self.fd, name) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.stx_mode.into()).into())),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.failed("statx", name, error)),
        }
    }

    fn failed(&self, op: &'static str, name: &OsStr, source: impl Into<io::Error>) -> DirError {
        DirError::call(op, self.path.join(name), source)
    }
}

impl AsFd for SafeDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests;
