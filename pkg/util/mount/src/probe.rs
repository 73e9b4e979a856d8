//! What this machine can do, found by doing it: versions and configuration tell too little, as files on tmpfs, stacked
//! file systems, disks with large sectors, containers without devices and security modules all have their say.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::AsFd,
    path::Path,
};

use rustix::fs::{OFlags, ResolveFlags};

use crate::{
    Attributes, Backend, Interface, Kernel, MountError, Source,
    error::Result,
    handle::proc_path,
    kernel::{PageCache, mount_image},
    resolve::openat2,
};

mod choose;
mod image;

pub use choose::{MissingBackend, NoBackend, Requested, UnknownBackend, choose};
pub use image::ProbeImage;

/// Whether a warning of the kernel ends it (`Documentation/admin-guide/sysctl/kernel.rst`).
const PANIC_ON_WARN: &str = "/proc/sys/kernel/panic_on_warn";

/// What was found for each back end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeReport {
    /// Images mounted from files.
    pub erofs: Outcome,
    /// The same with the option `directio`, which keeps data in memory once instead of twice. Fails before Linux 6.13,
    /// and on disks whose sectors are larger than 512 bytes.
    pub erofs_directio: Outcome,
    /// Images mounted from loop devices.
    pub erofs_loop: Outcome,
}

/// What came of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The test image was mounted and its bytes read.
    Works,
    /// It could not be mounted, or its bytes were not right.
    Fails {
        /// What went wrong, and where it is known what would help.
        reason: String,
    },
    /// It was not tried: `panic_on_warn` is set, and kernels built with ext4's debugging checks warn when an image is
    /// read from a file.
    NotTried,
}

// === impl ProbeReport ===

impl ProbeReport {
    /// What was found for a back end.
    pub fn of(&self, backend: Backend) -> &Outcome {
        match backend {
            Backend::Erofs => &self.erofs,
            Backend::ErofsLoop => &self.erofs_loop,
        }
    }
}

/// Mounts a tiny image, with its data on a second device at an odd multiple of 512 bytes, by each back end, and reads
/// it. The files are on the file system of `store_dir`, for it decides as much as the kernel does.
///
/// `scratch_mount_dir` is a place beneath our run directory for the mount, made if only it is missing. The files have
/// no names, so that a kill leaves none; a mount that a kill leaves is removed by the next probe. An error means that
/// the probe itself could not be done.
pub fn probe(store_dir: &Path, scratch_mount_dir: &Path) -> Result<ProbeReport> {
    let files = ProbeFiles::write(store_dir)?;
    Kernel.unmount(scratch_mount_dir)?;
    let erofs_loop = files.outcome(|source| by_clone(source, scratch_mount_dir), Backend::ErofsLoop)?;
    if panics_on_warning()? {
        return Ok(ProbeReport { erofs: Outcome::NotTried, erofs_directio: Outcome::NotTried, erofs_loop });
    }
    Ok(ProbeReport {
        erofs: files.outcome(|source| by_clone(source, scratch_mount_dir), Backend::Erofs)?,
        erofs_directio: files.outcome(|source| by_direct_io(source, scratch_mount_dir), Backend::Erofs)?,
        erofs_loop,
    })
}

/// The image and its device as files without names.
struct ProbeFiles {
    image: File,
    device: File,
}

/// Bytes of the test file, or what kept them from being read.
type Bytes = Result<Vec<u8>>;

// === impl ProbeFiles ===

impl ProbeFiles {
    fn write(store_dir: &Path) -> Result<Self> {
        let ProbeImage { image, device } = ProbeImage::new();
        Ok(Self { image: nameless(store_dir, &image)?, device: nameless(store_dir, &device)? })
    }

    /// Reads the image by `read` and judges what came.
    fn outcome(&self, read: impl FnOnce(&Source) -> Bytes, backend: Backend) -> Result<Outcome> {
        let source = Source::new(backend, reopen(&self.image)?, vec![reopen(&self.device)?]);
        Ok(match read(&source) {
            Ok(bytes) if bytes == ProbeImage::content() => Outcome::Works,
            Ok(_) => Outcome::Fails { reason: "the test file was read with wrong bytes".to_owned() },
            Err(error) => Outcome::Fails { reason: choose::explain(&error) },
        })
    }
}

/// The whole way that a volume takes, up to the point where others would see it.
fn by_clone(source: &Source, at: &Path) -> Bytes {
    let staged = Kernel.stage(source, at)?;
    let bytes = Kernel.clone_of(&staged, None, Attributes::default()).and_then(|clone| read_test_file(&clone, at));
    Kernel.unmount(at)?;
    bytes
}

fn by_direct_io(source: &Source, at: &Path) -> Bytes {
    read_test_file(mount_image(source, PageCache::ImageOnly, at)?, at)
}

fn read_test_file(mount: impl AsFd, at: &Path) -> Bytes {
    let fd = openat2(mount, ProbeImage::NAME, OFlags::RDONLY, ResolveFlags::BENEATH)
        .map_err(|error| MountError::call("openat2", at, error))?;
    let mut bytes = Vec::new();
    File::from(fd).read_to_end(&mut bytes).map_err(|error| MountError::call("read", at, error))?;
    Ok(bytes)
}

/// A file that goes with its last descriptor (`O_TMPFILE`, or unlinked at once where there is no such thing).
fn nameless(dir: &Path, bytes: &[u8]) -> Result<File> {
    let mut file = tempfile::tempfile_in(dir).map_err(|error| MountError::call("open(O_TMPFILE)", dir, error))?;
    file.write_all(bytes).map_err(|error| MountError::call("write", dir, error))?;
    Ok(file)
}

/// A read-only descriptor of its own, as those of the store's files are.
fn reopen(file: &File) -> Result<File> {
    let path = proc_path(file.as_fd());
    File::open(&path).map_err(|error| MountError::call("open", &path, error))
}

fn panics_on_warning() -> Result<bool> {
    let path = Path::new(PANIC_ON_WARN);
    match std::fs::read_to_string(path) {
        Ok(value) => Ok(value.trim() != "0"),
        // Kernels without sysctl have no way to set it.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(MountError::call("read", path, error)),
    }
}
