//! Whether a file is the root of a mount, by statx(2): one call, whatever the length of the mount table.

use std::{
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, Statx, StatxAttributes, StatxFlags},
    io::Errno,
    path::Arg,
};

use crate::{
    error::{MountError, Result},
    handle::path_of,
};

/// Whether an open file or directory is the root of a mount.
pub fn is_mount_point(fd: BorrowedFd<'_>) -> Result<bool> {
    of_fd(fd).and_then(|stat| is_root(&stat)).map_err(|error| MountError::call("statx", &path_of(fd), error))
}

/// Whether something is mounted at a path, whose last component is not followed. What does not exist is no mount
/// point.
pub fn is_mounted_at(path: &Path) -> Result<bool> {
    match at(rustix::fs::CWD, path).and_then(|stat| is_root(&stat)) {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        result => result.map_err(|error| MountError::call("statx", path, error)),
    }
}

/// Status of an open file, with the number of its mount.
pub(crate) fn of_fd(fd: BorrowedFd<'_>) -> Result<Statx, Errno> {
    rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)
}

/// Status of a file beneath a directory; a symlink is not followed.
pub(crate) fn at(dir: impl AsFd, name: impl Arg) -> Result<Statx, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(dir, name, flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)
}

/// Whether a status is the one of a mount's root. A kernel that cannot tell (before 5.8) is an error, never a no.
pub(crate) fn is_root(stat: &Statx) -> Result<bool, Errno> {
    if !stat.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
        return Err(Errno::OPNOTSUPP);
    }
    Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}
