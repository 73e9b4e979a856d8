//! A mount table in memory. Images are one tree of real files; what is attached where is a list, and anything can be made to fail.

#![expect(clippy::panic, reason = "a fixture that cannot be made fails the test that wants it")]

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use imagevol_cri::{ImageMounts, ImageServiceError, MountRequest};
use imagevol_mount::{
    Attributes, DetachedMount, DeviceNumber, Interface, MountError, MountKind, MountPoint, Source, StagedImage,
    SubPath, Unmounted,
};
use tempfile::TempDir;

use crate::image_service::FakeImageService;

/// A node where nothing is mounted. Clones share everything.
///
/// Each image is the same tree: `dir/inner/deep`, `dir/file`, `file`, and the symlink `link` to `dir`.
#[derive(Debug, Clone)]
pub struct FakeMounts(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    content: TempDir,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    table: Vec<MountPoint>,
    mount_errors: VecDeque<ImageServiceError>,
    attach_errors: u32,
    unmount_errors: u32,
    list_errors: u32,
    log: Vec<String>,
}

// === impl FakeMounts ===

impl Default for FakeMounts {
    fn default() -> Self {
        let content = TempDir::new().unwrap_or_else(|error| panic!("content of images: {error}"));
        let made = std::fs::create_dir_all(content.path().join("dir/inner"))
            .and_then(|()| std::fs::write(content.path().join("dir/inner/deep"), "3"))
            .and_then(|()| std::fs::write(content.path().join("dir/file"), "2"))
            .and_then(|()| std::fs::write(content.path().join("file"), "1"))
            .and_then(|()| std::os::unix::fs::symlink("dir", content.path().join("link")));
        made.unwrap_or_else(|error| panic!("content of images: {error}"));
        Self(Arc::new(Inner { content, state: Mutex::default() }))
    }
}

impl FakeMounts {
    /// Where something is mounted now, in order.
    pub fn mounted(&self) -> Vec<PathBuf> {
        let mut paths: Vec<_> = self.state().table.iter().map(|mount| mount.at.clone()).collect();
        paths.sort();
        paths
    }

    /// What is mounted at a place: the directory or file of the image.
    pub fn root_at(&self, at: &Path) -> Option<PathBuf> {
        self.state().table.iter().find(|mount| mount.at == at).map(|mount| mount.root.clone())
    }

    /// Mounts something as others do, or as an earlier run did.
    pub fn put(&self, fs_type: &str, root: &str, at: &Path) {
        self.state().add(fs_type, root.into(), at.to_owned());
    }

    /// Attaches and unmounts since the last time, in order.
    pub fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.state().log)
    }

    /// The image service's next mount fails so.
    pub fn fail_mount(&self, error: ImageServiceError) {
        self.state().mount_errors.push_back(error);
    }

    /// This many attaches fail from now on.
    pub fn fail_attaches(&self, times: u32) {
        self.state().attach_errors = times;
    }

    /// This many unmounts fail from now on.
    pub fn fail_unmounts(&self, times: u32) {
        self.state().unmount_errors = times;
    }

    /// The mount table cannot be read this many times.
    pub fn fail_lists(&self, times: u32) {
        self.state().list_errors = times;
    }

    fn detached(&self, sub_path: Option<&SubPath>) -> Result<DetachedMount, ImageServiceError> {
        let root = self.0.content.path();
        let path = sub_path.map_or_else(|| root.to_owned(), |sub_path| root.join(sub_path.as_path()));
        let found = File::open(path).and_then(|file| Ok((file.metadata()?.is_dir(), file)));
        let (is_dir, file) = found.map_err(|_| ImageServiceError::SubPath {
            message: format!("sub path {sub_path:?} does not exist in the image"),
        })?;
        Ok(DetachedMount::new(file.into(), if is_dir { MountKind::Directory } else { MountKind::File }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    fn add(&mut self, fs_type: &str, root: PathBuf, at: PathBuf) {
        let id = u64::try_from(self.table.len()).unwrap_or_default() + 1000;
        // On top of what is there.
        let parent = self.table.iter().rev().find(|mount| mount.at == at).map_or(1, |mount| mount.id);
        self.table.push(MountPoint {
            id,
            parent,
            device: DeviceNumber { major: 0, minor: 7 },
            root,
            at,
            options: "ro,nosuid,nodev".to_owned(),
            fs_type: fs_type.to_owned(),
            source: "none".into(),
            super_options: "ro".to_owned(),
        });
    }
}

fn path_of(fd: BorrowedFd<'_>) -> PathBuf {
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default()
}

fn busy(op: &'static str, at: &Path) -> MountError {
    MountError::call(op, at, io::Error::from(io::ErrorKind::ResourceBusy))
}

/// Whether one of some failures is left; takes it.
fn take(failures: &mut u32) -> bool {
    let failed = *failures > 0;
    *failures = failures.saturating_sub(1);
    failed
}

impl Interface for FakeMounts {
    fn stage(&self, _source: &Source, at: &Path) -> imagevol_mount::Result<StagedImage> {
        Err(MountError::call("stage", at, io::Error::from(io::ErrorKind::Unsupported)))
    }

    fn open_staged(&self, _at: &Path) -> imagevol_mount::Result<Option<StagedImage>> {
        Ok(None)
    }

    fn clone_of(
        &self,
        staged: &StagedImage,
        _sub_path: Option<&SubPath>,
        _with: Attributes,
    ) -> imagevol_mount::Result<DetachedMount> {
        Err(MountError::call("clone_of", staged.at(), io::Error::from(io::ErrorKind::Unsupported)))
    }

    fn attach(&self, mount: DetachedMount, target: BorrowedFd<'_>) -> imagevol_mount::Result<()> {
        let (at, root) = (path_of(target), path_of(mount.as_fd()));
        let mut state = self.state();
        if take(&mut state.attach_errors) {
            return Err(busy("move_mount", &at));
        }
        if state.table.iter().any(|mount| mount.at == at) {
            return Err(MountError::AlreadyMounted { at });
        }
        let root = Path::new("/").join(root.strip_prefix(self.0.content.path()).unwrap_or(&root));
        state.log.push(format!("attach {} {}", root.display(), at.display()));
        state.add("erofs", root, at);
        Ok(())
    }

    fn unmount(&self, at: &Path) -> imagevol_mount::Result<Unmounted> {
        let mut state = self.state();
        if take(&mut state.unmount_errors) {
            return Err(busy("umount2", at));
        }
        let before = state.table.len();
        state.table.retain(|mount| mount.at != at);
        let removed = u32::try_from(before - state.table.len()).unwrap_or(u32::MAX);
        state.log.push(format!("unmount {}", at.display()));
        Ok(if removed == 0 { Unmounted::WasNotMounted } else { Unmounted::Removed { mounts: removed } })
    }

    fn list(&self, under: &Path) -> imagevol_mount::Result<Vec<MountPoint>> {
        let mut state = self.state();
        if take(&mut state.list_errors) {
            return Err(busy("read", Path::new("/proc/thread-self/mountinfo")));
        }
        Ok(state.table.iter().filter(|mount| mount.at.starts_with(under)).cloned().collect())
    }
}

#[async_trait]
impl ImageMounts for FakeImageService {
    async fn mount(&self, request: MountRequest<'_>) -> imagevol_cri::Result<DetachedMount> {
        let mounts = self.mounts();
        let error = mounts.state().mount_errors.pop_front();
        if let Some(error) = error {
            return Err(error);
        }
        if !self.is_present(request.image) {
            return Err(ImageServiceError::NotFound { message: format!("image {} is not present", request.image) });
        }
        mounts.detached(request.sub_path)
    }
}
