//! Opening paths with a say in how they are resolved.

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
    path::Arg,
};

/// How often a walk is tried anew. The kernel gives `EAGAIN` for a scoped walk over `..` (which symlinks may hold)
/// whenever anything on the machine was mounted or renamed meanwhile (openat2(2)), so that a node which mounts a lot
/// needs many tries, each of some microseconds; libpathrs' 128 is known to be met under such load.
const ATTEMPTS: u32 = 4096;

/// `openat2` without creation; always close-on-exec.
pub(crate) fn openat2(
    dir: impl AsFd,
    path: impl Arg + Copy,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let mut attempt = 1;
    loop {
        match rustix::fs::openat2(&dir, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if attempt < ATTEMPTS => attempt += 1,
            result => return result,
        }
    }
}
