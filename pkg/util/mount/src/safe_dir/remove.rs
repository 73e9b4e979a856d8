//! Removal of a tree that must not hold a mount.

use std::ffi::OsStr;

use rustix::{fs::ResolveFlags, io::Errno};

use super::{BENEATH, DIRECTORY, DirError, DirResult, Entry, SafeDir};
use crate::{FileKind, resolve::openat2};

/// Trees of ours are some ten levels deep; each level holds a descriptor and a stack frame.
const MAX_DEPTH: usize = 100;

/// Removes the directory `name` of `parent`: looks at all of it first, so that a mount that was there before keeps
/// everything as it is.
pub(super) fn tree(parent: &SafeDir, name: &OsStr) -> DirResult<()> {
    refuse_mount(parent, name)?;
    check(&enter(parent, name)?, MAX_DEPTH)?;
    remove(parent, name)
}

/// Whether all beneath `dir` is free of mounts and not too deep.
fn check(dir: &SafeDir, depth: usize) -> DirResult<()> {
    let depth = depth.checked_sub(1).ok_or_else(|| DirError::TooDeep { at: dir.path.clone() })?;
    for Entry { name, kind } in dir.entries()? {
        refuse_mount(dir, &name)?;
        if kind == FileKind::Directory {
            check(&enter(dir, &name)?, depth)?;
        }
    }
    Ok(())
}

fn remove(parent: &SafeDir, name: &OsStr) -> DirResult<()> {
    let dir = enter(parent, name)?;
    for Entry { name, kind } in dir.entries()? {
        match kind {
            FileKind::Directory => remove(&dir, &name)?,
            FileKind::Regular
            | FileKind::Symlink
            | FileKind::BlockDevice
            | FileKind::CharacterDevice
            | FileKind::Fifo
            | FileKind::Socket
            | FileKind::Unknown => gone_is_fine(dir.remove_file(&name), &dir, &name)?,
        }
    }
    gone_is_fine(parent.remove_dir(name), parent, name)
}

/// Opens a directory of the same mount.
fn enter(parent: &SafeDir, name: &OsStr) -> DirResult<SafeDir> {
    let path = parent.path.join(name);
    match openat2(&parent.fd, name, DIRECTORY, BENEATH | ResolveFlags::NO_XDEV) {
        Ok(fd) => Ok(SafeDir { fd, path }),
        Err(Errno::XDEV) => Err(DirError::MountInside { at: path }),
        Err(error) => Err(DirError::call("openat2", path, error)),
    }
}

/// Also finds files that are mounted over, which nothing is entered for.
fn refuse_mount(dir: &SafeDir, name: &OsStr) -> DirResult<()> {
    if dir.is_mount_point(name)? {
        return Err(DirError::MountInside { at: dir.path.join(name) });
    }
    Ok(())
}

/// Somebody else may have removed it; and the kernel says `EBUSY` for what has been mounted over meanwhile.
fn gone_is_fine(removed: DirResult<()>, dir: &SafeDir, name: &OsStr) -> DirResult<()> {
    match removed {
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            refuse_mount(dir, name)?;
            Err(error)
        }
        other => other,
    }
}
