//! Making a superblock: the kernel's file system context (`fsopen`, `fsconfig`, `fsmount`).

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    io::Errno,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags},
};

use crate::error::{MountError, Result};

/// More than the kernel keeps: its log is a ring of 8 messages (`struct fc_log` in `include/linux/fs_context.h`).
const MAX_LOG_LINES: usize = 16;
/// Longer than any message that EROFS writes; one read gives one message.
const LOG_LINE_LENGTH: usize = 1024;

/// A file system that is being set up. Dropping it undoes everything.
pub(crate) struct FsContext {
    fd: OwnedFd,
    at: PathBuf,
}

// === impl FsContext ===

impl FsContext {
    /// Starts an EROFS file system; `at` is for messages.
    pub(crate) fn erofs(at: &Path) -> Result<Self> {
        let fd = rustix::mount::fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)
            .map_err(|error| MountError::call("fsopen(erofs)", at, error))?;
        Ok(Self { fd, at: at.to_owned() })
    }

    /// The file or device with the superblock.
    pub(crate) fn source(&self, path: &Path) -> Result<()> {
        let done = rustix::mount::fsconfig_set_string(&self.fd, "source", path);
        done.map_err(|error| self.failed("fsconfig(source)", error))
    }

    /// The next of the other files or devices.
    pub(crate) fn device(&self, path: &Path) -> Result<()> {
        let done = rustix::mount::fsconfig_set_string(&self.fd, "device", path);
        done.map_err(|error| self.failed("fsconfig(device)", error))
    }

    /// An option without a value.
    pub(crate) fn flag(&self, flag: &str) -> Result<()> {
        let done = rustix::mount::fsconfig_set_flag(&self.fd, flag);
        done.map_err(|error| self.failed("fsconfig(flag)", error))
    }

    /// Makes the superblock and a mount of it that is attached nowhere.
    pub(crate) fn mount(self) -> Result<OwnedFd> {
        self.flag("ro")?;
        rustix::mount::fsconfig_create(&self.fd).map_err(|error| self.failed("fsconfig(create)", error))?;
        let attributes =
            MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        rustix::mount::fsmount(&self.fd, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .map_err(|error| self.failed("fsmount", error))
    }

    fn failed(&self, op: &'static str, error: Errno) -> MountError {
        MountError::Kernel { op, at: self.at.clone(), kernel_log: self.log(), source: error.into() }
    }

    /// What the kernel has to say: lines like `e erofs: cannot find valid erofs superblock`. The end of the log is
    /// told by an error; any other error ends it just as well, since it is an addition to the error at hand.
    fn log(&self) -> Vec<String> {
        let line = || {
            let mut line = [0; LOG_LINE_LENGTH];
            let length = rustix::io::read(&self.fd, &mut line).ok()?;
            let text = String::from_utf8_lossy(line.get(..length)?);
            Some(text.trim_end().to_owned())
        };
        std::iter::from_fn(line).take(MAX_LOG_LINES).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_own_words_are_in_the_error() {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "SKIPPED in CI: needs root");
            eprintln!("SKIPPED: needs root");
            return;
        }
        let context = FsContext::erofs(Path::new("/x")).unwrap();
        let error = context.flag("no-such-option").unwrap_err();
        let expected = "fsconfig(flag) failed for /x; e erofs: Unknown parameter 'no-such-option'";
        assert_eq!((error.to_string().as_str(), error.raw_os_error()), (expected, Some(libc::EINVAL)));
        // Read once, the log is empty.
        assert!(context.log().is_empty());
    }
}
