//! The seam between imagevol and the kernel's mounts: implemented by [`Kernel`](crate::Kernel), and by fakes in tests.

use std::{
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
};

use crate::{Attributes, DetachedMount, MountPoint, Source, StagedImage, SubPath, Unmounted, error::Result, mountinfo};

/// What imagevol asks of mounts. All methods block, as the system calls do: call them on a blocking thread.
///
/// An image is staged once on a node, so that all pods share one superblock and one page cache; each volume is a
/// clone of the staged mount. Mounting goes by descriptors, so that no path is looked up twice; paths serve for
/// staging places, which are ours alone, for listing and for unmounting.
pub trait Interface: Send + Sync {
    /// Mounts an image, read-only, without set-uid programs and device nodes, at `at`, a directory which is made if
    /// only it is missing. Fails if something is mounted there: see [`Self::open_staged`].
    fn stage(&self, source: &Source, at: &Path) -> Result<StagedImage>;

    /// The whole image that is mounted at `at` already, by an earlier life of this daemon, or `None` where nothing
    /// is mounted or nothing exists. Staging it anew would make a second superblock with its own page cache.
    fn open_staged(&self, at: &Path) -> Result<Option<StagedImage>>;

    /// A new mount of a staged image, or of a directory or regular file in it. Symlinks in `sub_path` are followed
    /// as a process would see them whose root is the image's root.
    fn clone_of(&self, staged: &StagedImage, sub_path: Option<&SubPath>, with: Attributes) -> Result<DetachedMount>;

    /// Makes a mount visible at `target`, a directory or a regular file according to
    /// [`DetachedMount::kind`]. Fails if `target` is a mount point already.
    fn attach(&self, mount: DetachedMount, target: BorrowedFd<'_>) -> Result<()>;

    /// Removes whatever is mounted at `at`, also if several mounts are stacked there and if they are in use: open
    /// files stay open. A symlink at `at` is not followed.
    fn unmount(&self, at: &Path) -> Result<Unmounted>;

    /// All mounts at `under` and beneath it.
    fn list(&self, under: &Path) -> Result<Vec<MountPoint>>;

    /// What is mounted at exactly `at`: the top one where several are stacked.
    fn mounted_at(&self, at: &Path) -> Result<Option<MountPoint>> {
        // Component by component, so that `/a/` and `/a` are one place.
        let at: PathBuf = at.components().collect();
        Ok(mountinfo::top_at(self.list(&at)?, &at))
    }
}
