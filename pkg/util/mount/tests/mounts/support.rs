//! A place, a namespace and an image for each test.

use std::{
    fs::{self, File},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use imagevol_mount::{
    Attributes, Backend, DetachedMount, Interface, Kernel, MountError, SafeDir, Source, StagedImage, SubPath,
    probe::ProbeImage,
};
use nix::{mount::MsFlags, sched::CloneFlags};

/// A directory on a disk: files on tmpfs cannot be mounted without loop devices.
const DISK: &str = "/var/tmp";

/// The place of one test.
pub(crate) struct Scratch {
    pub(crate) dir: PathBuf,
    pub(crate) backend: Backend,
}

/// Runs a test in a thread with a mount namespace of its own, in which all mounts are private and end with it.
pub(crate) fn in_namespace(backend: Backend, test: impl FnOnce(&Scratch) + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    // Outlives the thread, and with it the mounts.
    let dir = tempfile::tempdir_in(DISK).unwrap();
    let scratch = Scratch { dir: dir.path().to_owned(), backend };
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None, Path::new("/"), None, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
        test(&scratch);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Says what was not tested; where nothing may be left out, that is a failure.
pub(crate) fn skip(reason: &str) {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "SKIPPED in CI: {reason}");
    eprintln!("SKIPPED: {reason}");
}

/// Whether the tests' images can be made.
pub(crate) fn has_mkfs() -> bool {
    let found = Command::new("mkfs.erofs").arg("--help").output().is_ok();
    if !found {
        skip("needs mkfs.erofs (package erofs-utils)");
    }
    found
}

pub(crate) fn mount(source: Option<&Path>, at: &Path, fs_type: Option<&str>, flags: MsFlags) {
    nix::mount::mount(source, at, fs_type, flags, None::<&str>).unwrap();
}

pub(crate) fn bind(source: &Path, at: &Path) {
    mount(Some(source), at, None, MsFlags::MS_BIND);
}

impl Scratch {
    /// A directory in the place, made if missing.
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// An image of `files/`, filled by `fill`, made by mkfs.erofs.
    pub(crate) fn image_of(&self, fill: impl FnOnce(&Path)) -> PathBuf {
        let tree = self.dir("tree");
        fill(&tree);
        let image = self.dir.join("image.erofs");
        let output = Command::new("mkfs.erofs").arg(&image).arg(&tree).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        image
    }

    /// An image with a bit of everything.
    pub(crate) fn image(&self) -> PathBuf {
        self.image_of(|tree| {
            fs::create_dir_all(tree.join("dir/inner")).unwrap();
            fs::create_dir(tree.join("etc")).unwrap();
            fs::write(tree.join("file"), "1").unwrap();
            fs::write(tree.join("dir/file"), "2").unwrap();
            fs::write(tree.join("dir/inner/deep"), "3").unwrap();
            fs::write(tree.join("etc/passwd"), "the image's own").unwrap();
            fs::write(tree.join("script"), "#!/bin/sh\nexit 7\n").unwrap();
            fs::set_permissions(tree.join("script"), fs::Permissions::from_mode(0o4755)).unwrap();
            nix::unistd::mkfifo(&tree.join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
            for (name, to) in [
                ("relative", "dir/inner"),
                ("absolute", "/dir/inner"),
                ("dir/up", "../etc"),
                ("outside", "/etc/passwd"),
                ("far-outside", "../../../../../../etc/passwd"),
                ("hosts-only", "/proc/self"),
                ("loop", "loop"),
                ("dangling", "nowhere"),
            ] {
                symlink(to, tree.join(name)).unwrap();
            }
        })
    }

    /// The image with everything, opened for mounting.
    pub(crate) fn source(&self) -> Source {
        Source::new(self.backend, File::open(self.image()).unwrap(), Vec::new())
    }

    /// Stages the image with everything at `staging/`.
    pub(crate) fn staged(&self) -> StagedImage {
        Kernel.stage(&self.source(), &self.dir.join("staging")).unwrap()
    }

    /// The two files of the probe's image, named in the place.
    pub(crate) fn two_devices(&self) -> (PathBuf, PathBuf) {
        let ProbeImage { image, device } = ProbeImage::new();
        let paths = (self.dir.join("two.erofs"), self.dir.join("two.tar"));
        fs::write(&paths.0, image).unwrap();
        fs::write(&paths.1, device).unwrap();
        paths
    }

    /// The probe's image, opened for mounting with its device given `times` times.
    pub(crate) fn two_devices_source(&self, times: usize) -> Source {
        let (image, device) = self.two_devices();
        let devices = (0..times).map(|_| File::open(&device).unwrap()).collect();
        Source::new(self.backend, File::open(image).unwrap(), devices)
    }

    /// Attaches a mount at a directory of the place, and tells where.
    pub(crate) fn attach(&self, mount: DetachedMount, name: &str) -> PathBuf {
        let dir = self.dir(name);
        Kernel.attach(mount, std::os::fd::AsFd::as_fd(&SafeDir::open(&dir).unwrap())).unwrap();
        dir
    }
}

/// A clone of the whole image.
pub(crate) fn clone(staged: &StagedImage) -> DetachedMount {
    Kernel.clone_of(staged, None, Attributes::default()).unwrap()
}

/// A clone of a part of an image.
pub(crate) fn clone_sub(staged: &StagedImage, sub_path: &str) -> Result<DetachedMount, MountError> {
    Kernel.clone_of(staged, Some(&SubPath::parse(sub_path).unwrap()), Attributes::default())
}

/// The error number of a failed call of the standard library.
pub(crate) fn errno<T>(result: std::io::Result<T>) -> i32 {
    result.map(drop).unwrap_err().raw_os_error().unwrap()
}
