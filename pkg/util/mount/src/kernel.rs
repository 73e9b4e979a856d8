//! The real thing: mounts of the running kernel.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::fs::FileTypeExt,
    path::Path,
};

use nix::mount::MntFlags;
use rustix::{
    fs::{FileType, OFlags, ResolveFlags},
    io::Errno,
    mount::{MoveMountFlags, OpenTreeFlags},
};

use crate::{
    Attributes, DetachedMount, DeviceNumber, Exec, FileKind, Interface, MountKind, MountPoint, Source, StagedImage,
    SubPath, Unmounted,
    context::FsContext,
    error::{MountError, Result},
    handle::{path_of, proc_path},
    loop_device::LoopDevice,
    mount_point, mountinfo,
    resolve::openat2,
    superblock, sys,
};

/// More mounts than anybody stacks on purpose; whoever adds them faster than we remove them is not waited for.
const MAX_STACKED: u32 = 1024;
/// Mode of a staging directory: root's alone, for pods see the image through their own mounts.
const STAGING_MODE: u32 = 0o700;

/// Mounts of the running kernel, in the mount namespace of the calling thread. Needs `CAP_SYS_ADMIN` and `/proc`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kernel;

/// Where the data of an image is cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PageCache {
    /// In the image's pages and in those of the files beneath it: the kernel's default.
    Both,
    /// In the image's pages only (`directio`, Linux 6.13 and later).
    ImageOnly,
}

// === impl Kernel ===

impl Interface for Kernel {
    fn stage(&self, source: &Source, at: &Path) -> Result<StagedImage> {
        let target = open_staging_dir(at)?;
        let mount = mount_image(source, PageCache::Both, at)?;
        let device = device_of(&mount, at)?;
        // Killed before this line: the last descriptor goes, and superblock, mount and loop devices with it. After
        // it: the mount stays at `at`, where the next life of the daemon finds it by `open_staged`.
        move_mount(mount.as_fd(), target.as_fd(), at)?;
        Ok(StagedImage::new(mount, device, at.to_owned()))
    }

    fn open_staged(&self, at: &Path) -> Result<Option<StagedImage>> {
        let Some(root) = open_dir(at)? else { return Ok(None) };
        let stat = mount_point::of_fd(root.as_fd()).map_err(|error| MountError::call("statx", at, error))?;
        if !mount_point::is_root(&stat).map_err(|error| MountError::call("statx", at, error))? {
            return Ok(None);
        }
        let Some(mount) = mountinfo::read()?.into_iter().find(|mount| mount.id == stat.stx_mnt_id) else {
            // Unmounted since.
            return Ok(None);
        };
        if mount.fs_type != "erofs" || mount.root != Path::new("/") {
            return Err(MountError::NotAnImage { at: at.to_owned(), fs_type: mount.fs_type, root: mount.root });
        }
        Ok(Some(StagedImage::new(root, mount.device, at.to_owned())))
    }

    fn clone_of(&self, staged: &StagedImage, sub_path: Option<&SubPath>, with: Attributes) -> Result<DetachedMount> {
        let sub = sub_path.map(|sub_path| open_sub_path(staged, sub_path)).transpose()?;
        let (root, kind) = match &sub {
            Some((fd, kind)) => (fd.as_fd(), *kind),
            None => (staged.as_fd(), MountKind::Directory),
        };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let clone = rustix::mount::open_tree(root, c"", flags)
            .map_err(|error| MountError::call("open_tree(clone)", staged.at(), error))?;
        // While it is detached, so that nobody ever sees it with other attributes.
        sys::mount_setattr(clone.as_fd(), &mount_attr(with))
            .map_err(|error| MountError::call("mount_setattr", staged.at(), error))?;
        Ok(DetachedMount::new(clone, kind))
    }

    fn attach(&self, mount: DetachedMount, target: BorrowedFd<'_>) -> Result<()> {
        let at = path_of(target);
        check_target(mount.kind(), target, &at)?;
        // Killed before this line: the mount goes with its descriptor. After it: it stays at the target, where the
        // volume manager finds it in the mount table.
        move_mount(mount.as_fd(), target, &at)
    }

    fn unmount(&self, at: &Path) -> Result<Unmounted> {
        let mut removed = 0;
        while remove_top(at)? {
            removed += 1;
            if removed == MAX_STACKED {
                return Err(MountError::StillMounted { at: at.to_owned(), removed });
            }
        }
        // `EINVAL` also stands for mounts that a user namespace locks: look rather than believe.
        if mount_point::is_mounted_at(at)? {
            return Err(MountError::StillMounted { at: at.to_owned(), removed });
        }
        Ok(if removed == 0 { Unmounted::WasNotMounted } else { Unmounted::Removed { mounts: removed } })
    }

    fn list(&self, under: &Path) -> Result<Vec<MountPoint>> {
        let mut mounts = mountinfo::read()?;
        mounts.retain(|mount| mount.at.starts_with(under));
        Ok(mounts)
    }
}

/// Makes a superblock of an image, and a mount of it that is attached nowhere.
pub(crate) fn mount_image(source: &Source, cache: PageCache, at: &Path) -> Result<OwnedFd> {
    check_source(source, at)?;
    let context = FsContext::erofs(at)?;
    if cache == PageCache::ImageOnly {
        context.flag("directio")?;
    }
    match source {
        Source::Erofs { image, devices } => {
            context.source(&proc_path(image.as_fd()))?;
            devices.iter().try_for_each(|device| context.device(&proc_path(device.as_fd())))?;
            context.mount()
        }
        Source::ErofsLoop { image, devices } => {
            // Bound until the end of this function; from then on the superblock keeps them.
            let image = LoopDevice::bind(image)?;
            let devices: Vec<_> = devices.iter().map(LoopDevice::bind).collect::<Result<_>>()?;
            context.source(image.node())?;
            devices.iter().try_for_each(|device| context.device(device.node()))?;
            context.mount()
        }
    }
}

/// Refuses what the kernel would mount but not serve: too few devices, or devices whose last bytes are beyond the
/// reach of whole blocks.
fn check_source(source: &Source, at: &Path) -> Result<()> {
    let superblock = superblock::read(source.image())
        .map_err(|error| MountError::call("read", &path_of(source.image().as_fd()), error))?
        .ok_or_else(|| MountError::NotErofs { at: at.to_owned() })?;
    let given = source.devices().len();
    if given != usize::from(superblock.devices) {
        return Err(MountError::DeviceCount { at: at.to_owned(), needs: superblock.devices, given });
    }
    let files = std::iter::once(source.image()).chain(source.devices());
    files.enumerate().try_for_each(|(device, file)| check_size(device, file, superblock.block_size, at))
}

fn check_size(device: usize, file: &File, block_size: u64, at: &Path) -> Result<()> {
    let metadata = file.metadata().map_err(|error| MountError::call("fstat", &path_of(file.as_fd()), error))?;
    // A block device tells no length here, and is made of whole blocks.
    if metadata.file_type().is_block_device() || metadata.len().is_multiple_of(block_size) {
        return Ok(());
    }
    Err(MountError::UnalignedDevice { at: at.to_owned(), device, size: metadata.len(), block_size })
}

/// The directory for a staging mount, made if missing. An empty one is left behind by a kill, and used the next time.
fn open_staging_dir(at: &Path) -> Result<OwnedFd> {
    match rustix::fs::mkdir(at, STAGING_MODE.into()) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(MountError::call("mkdir", at, error)),
    }
    let dir = open_dir(at)?.ok_or_else(|| MountError::call("open", at, Errno::NOENT))?;
    if mount_point::is_mount_point(dir.as_fd())? {
        return Err(MountError::AlreadyMounted { at: at.to_owned() });
    }
    Ok(dir)
}

/// A directory by its path, whose last component must be no symlink. `None`: it does not exist.
fn open_dir(at: &Path) -> Result<Option<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::open(at, flags, rustix::fs::Mode::empty()) {
        Ok(dir) => Ok(Some(dir)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(MountError::call("open", at, error)),
    }
}

/// Finds a sub path as a process would whose root is the image's, and opens it without any effect on what is there.
fn open_sub_path(staged: &StagedImage, sub_path: &SubPath) -> Result<(OwnedFd, MountKind)> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let fd = openat2(staged, sub_path.as_path(), OFlags::PATH, resolve).map_err(|error| match error {
        Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG => MountError::SubPathNotFound { sub_path: sub_path.clone() },
        Errno::LOOP | Errno::XDEV => MountError::SubPathRefused { sub_path: sub_path.clone(), source: error.into() },
        _ => MountError::call("openat2", staged.at(), error),
    })?;
    let stat = rustix::fs::fstat(&fd).map_err(|error| MountError::call("fstat", staged.at(), error))?;
    match mountable(FileType::from_raw_mode(stat.st_mode).into()) {
        Ok(kind) => Ok((fd, kind)),
        Err(kind) => Err(MountError::SubPathKind { sub_path: sub_path.clone(), kind }),
    }
}

/// What a file is as the root of a mount, or its kind if pods do not get such.
fn mountable(kind: FileKind) -> Result<MountKind, FileKind> {
    match kind {
        FileKind::Directory => Ok(MountKind::Directory),
        FileKind::Regular => Ok(MountKind::File),
        FileKind::Symlink
        | FileKind::BlockDevice
        | FileKind::CharacterDevice
        | FileKind::Fifo
        | FileKind::Socket
        | FileKind::Unknown => Err(kind),
    }
}

/// Refuses to stack mounts, and gives one answer for unlike kinds: kernels differ in theirs.
fn check_target(needs: MountKind, target: BorrowedFd<'_>, at: &Path) -> Result<()> {
    let stat = mount_point::of_fd(target).map_err(|error| MountError::call("statx", at, error))?;
    if mount_point::is_root(&stat).map_err(|error| MountError::call("statx", at, error))? {
        return Err(MountError::AlreadyMounted { at: at.to_owned() });
    }
    let kind = FileKind::from(FileType::from_raw_mode(stat.stx_mode.into()));
    if (kind == FileKind::Directory) != (needs == MountKind::Directory) {
        return Err(MountError::TargetKind { at: at.to_owned(), kind, needs });
    }
    Ok(())
}

fn mount_attr(with: Attributes) -> libc::mount_attr {
    let always = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    // The staged mount may itself be a pod's that survived, with that pod's attributes.
    let (set, clear) = match with.exec {
        Exec::Allow => (always, libc::MOUNT_ATTR_NOEXEC),
        Exec::Deny => (always | libc::MOUNT_ATTR_NOEXEC, 0),
    };
    libc::mount_attr { attr_set: set, attr_clr: clear, propagation: libc::MS_PRIVATE, userns_fd: 0 }
}

fn move_mount(mount: BorrowedFd<'_>, target: BorrowedFd<'_>, at: &Path) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, c"", target, c"", flags).map_err(|error| MountError::call("move_mount", at, error))
}

fn device_of(mount: &OwnedFd, at: &Path) -> Result<DeviceNumber> {
    let stat = mount_point::of_fd(mount.as_fd()).map_err(|error| MountError::call("statx", at, error))?;
    Ok(DeviceNumber { major: stat.stx_dev_major, minor: stat.stx_dev_minor })
}

/// Removes the top mount at a place, at once for everybody, even while it is in use. `false`: nothing is mounted.
fn remove_top(at: &Path) -> Result<bool> {
    match nix::mount::umount2(at, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(true),
        // Not a mount point, or not there.
        Err(nix::Error::EINVAL | nix::Error::ENOENT | nix::Error::ENOTDIR) => Ok(false),
        Err(error) => Err(MountError::call("umount2", at, io::Error::from(error))),
    }
}
