//! Whether anybody uses a file: the last check before an unlink.
//!
//! A write lease (fcntl(2), `F_SETLEASE`) is granted only while nobody else has the file open: no process, no mounted
//! EROFS image in any mount namespace, no loop device.

use std::{fs::File, io, os::fd::AsFd, path::Path, sync::OnceLock};

use rustix::fs::FileType;

use crate::{
    FileKind,
    error::{MountError, Result},
    sys::{self, Lease},
};

/// A write lease that is held: whoever opens the file now, also by mounting it, waits until the lease is given back
/// (or for `/proc/sys/fs/lease-break-time` seconds, 45 by default). So hold it for an unlink and no longer.
#[derive(Debug)]
pub struct WriteLease<'f> {
    file: &'f File,
}

// === impl WriteLease ===

impl<'f> WriteLease<'f> {
    /// Takes the lease. `None`: the file is in use.
    ///
    /// `file` must be the only open description of the file in this process, and the process must own the file or
    /// have `CAP_LEASE`. The first call makes the process ignore `SIGIO`, which the kernel sends to the holder when
    /// somebody waits, and whose default action would end us.
    pub fn take(file: &'f File) -> Result<Option<Self>> {
        check_regular(file)?;
        ignore_sigio()?;
        match sys::set_lease(file.as_fd(), Lease::Write) {
            Ok(()) => Ok(Some(Self { file })),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => Ok(None),
            Err(error) => Err(MountError::call("fcntl(F_SETLEASE, F_WRLCK)", &path_of(file), error)),
        }
    }
}

impl Drop for WriteLease<'_> {
    fn drop(&mut self) {
        // Cannot fail while the lease is ours; if the kernel broke it, it is gone as well. Closing the file would be
        // the last resort.
        if let Err(error) = sys::set_lease(self.file.as_fd(), Lease::None) {
            tracing::warn!(%error, file = %path_of(self.file).display(), "cannot give a write lease back");
        }
    }
}

/// Whether anybody but the caller has the file open, a mounted image included. For the conditions see
/// [`WriteLease::take`].
pub fn in_use(file: &File) -> Result<bool> {
    Ok(WriteLease::take(file)?.is_none())
}

fn check_regular(file: &File) -> Result<()> {
    let stat = rustix::fs::fstat(file).map_err(|error| MountError::call("fstat", &path_of(file), error))?;
    let kind = FileKind::from(FileType::from_raw_mode(stat.st_mode));
    if kind == FileKind::Regular { Ok(()) } else { Err(MountError::LeaseOnOther { kind }) }
}

fn ignore_sigio() -> Result<()> {
    static DONE: OnceLock<Result<(), i32>> = OnceLock::new();
    let done = DONE.get_or_init(|| sys::ignore_sigio().map_err(|error| error.raw_os_error().unwrap_or(libc::EINVAL)));
    done.map_err(|errno| MountError::call("sigaction", Path::new("SIGIO"), io::Error::from_raw_os_error(errno)))
}

/// The file's path as the kernel knows it, for messages only.
fn path_of(file: &File) -> std::path::PathBuf {
    crate::handle::path_of(file.as_fd())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn sees_other_openers_only() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("blob");
        File::create(&path).unwrap().write_all(b"x").unwrap();
        let file = File::open(&path).unwrap();
        assert!(!in_use(&file).unwrap());
        let other = File::open(&path).unwrap();
        assert!(in_use(&file).unwrap());
        drop(other);
        assert!(!in_use(&file).unwrap());
    }

    #[test]
    fn a_held_lease_delays_an_opener_until_it_is_given_back() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("blob");
        File::create(&path).unwrap();
        let file = File::open(&path).unwrap();
        let lease = WriteLease::take(&file).unwrap().unwrap();
        // The opener that does not wait is turned away, and SIGIO, sent to us by it, does not end the process.
        let impatient = rustix::fs::open(
            &path,
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK,
            rustix::fs::Mode::empty(),
        );
        assert_eq!(impatient.unwrap_err(), rustix::io::Errno::AGAIN);
        drop(lease);
        File::open(&path).unwrap();
    }

    #[test]
    fn refuses_what_is_no_regular_file() {
        let error = in_use(&File::open("/dev/null").unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "in-use test on a character device, which is no regular file");
    }
}
