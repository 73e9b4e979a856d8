//! A socket file that only root can use, put in place whole. Everything here blocks, for as long as a local file system takes.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Of the directory that is made for a socket of ours.
const DIR_MODE: u32 = 0o700;
/// Of what is missing above it: as the kubelet makes its own (kubelet.go, `setupDataDirs`).
const PARENT_MODE: u32 = 0o750;
const SOCKET_MODE: u32 = 0o600;
/// Name until the socket is ready. Kubelets leave out names with a dot in front (pluginwatcher, README.md).
const UNREADY: &str = ".imagevol";

/// Who makes the directory of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parent {
    /// We, where it is missing.
    Ours,
    /// The kubelet: until it has, there is nobody to look into it.
    Kubelets,
}

/// A socket that listens.
#[derive(Debug)]
pub(crate) struct Bound {
    /// Does not block.
    pub(crate) listener: UnixListener,
    pub(crate) file: SocketFile,
}

/// The file of a socket, as it was when it was made.
#[derive(Debug, Clone)]
pub(crate) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// Why a socket cannot be had at a path.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The path is not one of a file in a directory.
    #[error("{path} cannot be a socket")]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// A step failed.
    #[error("{step} of socket {path} failed")]
    Step {
        /// What was tried.
        step: &'static str,
        /// The socket's path.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

// === impl Bound ===

impl Bound {
    /// Makes a socket anew and puts it at `path`, in place of whatever file is there.
    ///
    /// It appears whole, with its mode and listening: a kubelet asks within the second, and takes notice only of what appears.
    /// A kill leaves the unready file, which the next call replaces, or the socket, whose file is replaced alike.
    pub(crate) fn new(path: &Path, parent: Parent) -> Result<Self, SocketError> {
        let step = |step| move |source| SocketError::Step { step, path: path.to_owned(), source };
        let no_file = || SocketError::Path { path: path.to_owned() };
        let (dir, _) = path.parent().zip(path.file_name()).ok_or_else(no_file)?;
        if parent == Parent::Ours {
            make_dir(dir).map_err(step("directory"))?;
        }
        let unready = dir.join(UNREADY);
        remove(&unready).map_err(step("removal of the unready file"))?;
        let listener = UnixListener::bind(&unready).map_err(step("bind"))?;
        listener.set_nonblocking(true).map_err(step("set-up"))?;
        fs::set_permissions(&unready, Permissions::from_mode(SOCKET_MODE)).map_err(step("mode"))?;
        let made = fs::symlink_metadata(&unready).map_err(step("status"))?;
        fs::rename(&unready, path).map_err(step("rename"))?;
        Ok(Self { listener, file: SocketFile { path: path.to_owned(), device: made.dev(), inode: made.ino() } })
    }
}

// === impl SocketFile ===

impl SocketFile {
    /// Whether the file is still there, and still the same.
    pub(crate) fn is_there(&self) -> Result<bool, SocketError> {
        match fs::symlink_metadata(&self.path) {
            Ok(now) => Ok(now.file_type().is_socket() && (now.dev(), now.ino()) == (self.device, self.inode)),
            Err(error) if is_absence(&error) => Ok(false),
            Err(source) => Err(SocketError::Step { step: "status", path: self.path.clone(), source }),
        }
    }

    /// Removes the file, unless somebody else's is in its place.
    pub(crate) fn remove(&self) -> Result<(), SocketError> {
        if !self.is_there()? {
            return Ok(());
        }
        remove(&self.path).map_err(|source| SocketError::Step { step: "removal", path: self.path.clone(), source })
    }
}

fn make_dir(dir: &Path) -> io::Result<()> {
    if let Some(above) = dir.parent() {
        DirBuilder::new().recursive(true).mode(PARENT_MODE).create(above)?;
    }
    match DirBuilder::new().mode(DIR_MODE).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if is_absence(&error) => Ok(()),
        removed => removed,
    }
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn only_its_owner_can_use_it() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("plugins/driver/csi.sock");
        let bound = Bound::new(&path, Parent::Ours).unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        UnixStream::connect(&path).unwrap();
        assert!(bound.file.is_there().unwrap());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn replaces_what_a_killed_daemon_left() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        drop(UnixListener::bind(root.path().join(UNREADY)).unwrap());
        Bound::new(&path, Parent::Kubelets).unwrap();
        UnixStream::connect(&path).unwrap_err();
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        let bound = Bound::new(&path, Parent::Kubelets).unwrap();
        UnixStream::connect(&path).unwrap();
        bound.file.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn leaves_what_is_not_its_own() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("s");
        let old = Bound::new(&path, Parent::Kubelets).unwrap();
        let new = Bound::new(&path, Parent::Kubelets).unwrap();
        assert!(!old.file.is_there().unwrap());
        old.file.remove().unwrap();
        assert!(new.file.is_there().unwrap());
        fs::remove_dir_all(root.path()).unwrap();
        assert!(!new.file.is_there().unwrap());
        new.file.remove().unwrap();
    }

    #[test]
    fn says_what_is_wrong() {
        let root = tempfile::tempdir().unwrap();
        let step = |path: &Path, parent| match Bound::new(path, parent).unwrap_err() {
            SocketError::Step { step, .. } => step,
            SocketError::Path { .. } => "path",
        };
        assert_eq!(step(Path::new("/"), Parent::Ours), "path");
        assert_eq!(step(&root.path().join("absent/s"), Parent::Kubelets), "bind");
        assert_eq!(step(&root.path().join("x".repeat(200)).join("s"), Parent::Ours), "bind");
        fs::create_dir_all(root.path().join("dir/s/full")).unwrap();
        assert_eq!(step(&root.path().join("dir/s"), Parent::Ours), "rename");
        fs::write(root.path().join("file"), "").unwrap();
        assert_eq!(step(&root.path().join("file/s"), Parent::Ours), "bind");
        assert_eq!(step(&root.path().join("file/dir/s"), Parent::Ours), "directory");
    }
}
