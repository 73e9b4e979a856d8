//! Loop devices: files as block devices, for kernels that cannot mount an image from files.

use std::{
    fs::File,
    io::ErrorKind,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use crate::{
    error::{MountError, Result},
    handle::path_of,
    sys::{self, LO_FLAGS_AUTOCLEAR, LO_FLAGS_READ_ONLY, LoopConfig},
};

/// The device that hands out loop devices.
const CONTROL: &str = "/dev/loop-control";
/// The smallest block size of EROFS, so that any image fits (`blkszbits` 9).
const BLOCK_SIZE: u32 = 512;
/// How often another free device is asked for when somebody else was faster. Each loss is another's gain, so only
/// as many losses in a row as there are others at it at the same time are likely.
const ATTEMPTS: u32 = 256;

/// A file bound to a loop device, read-only and through the page cache. The device frees itself once this is dropped
/// and nothing on it is mounted, so that a kill leaves none behind.
#[derive(Debug)]
pub(crate) struct LoopDevice {
    _open: File,
    node: PathBuf,
}

// === impl LoopDevice ===

impl LoopDevice {
    /// Binds a file to a free device.
    pub(crate) fn bind(file: &File) -> Result<Self> {
        let control = open_control()?;
        for _ in 0..ATTEMPTS {
            if let Some(device) = Self::try_bind(&control, file)? {
                return Ok(device);
            }
        }
        Err(MountError::LoopBusy { attempts: ATTEMPTS })
    }

    /// The path of the device.
    pub(crate) fn node(&self) -> &Path {
        &self.node
    }

    /// `None`: the device that was free has been taken, or removed, by somebody else.
    fn try_bind(control: &File, file: &File) -> Result<Option<Self>> {
        let number = sys::loop_get_free(control.as_fd())
            .map_err(|error| MountError::call("ioctl(LOOP_CTL_GET_FREE)", Path::new(CONTROL), error))?;
        let node = PathBuf::from(format!("/dev/loop{number}"));
        let Some(device) = open_node(&node)? else { return Ok(None) };
        let config = LoopConfig::new(file.as_fd(), BLOCK_SIZE, LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR);
        match sys::loop_configure(device.as_fd(), &config) {
            Ok(()) => Ok(Some(Self { _open: device, node })),
            Err(error) if is_race(&error) => Ok(None),
            Err(error) => Err(MountError::call("ioctl(LOOP_CONFIGURE)", &path_of(file.as_fd()), error)),
        }
    }
}

fn open_control() -> Result<File> {
    match File::options().read(true).write(true).open(CONTROL) {
        Ok(control) => Ok(control),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(MountError::NoLoopControl { control: CONTROL.into() }),
        Err(error) => Err(MountError::call("open", Path::new(CONTROL), error)),
    }
}

fn open_node(node: &Path) -> Result<Option<File>> {
    match File::open(node) {
        Ok(device) => Ok(Some(device)),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(MountError::LoopNodeMissing { node: node.to_owned() }),
        Err(error) if is_race(&error) => Ok(None),
        Err(error) => Err(MountError::call("open", node, error)),
    }
}

/// `EBUSY`: bound by another since; `ENXIO`: being removed.
fn is_race(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENXIO))
}
