//! Says when a directory changes (inotify(7)).

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Files that are complete: closed after writing, or moved into place. `IN_CREATE` is left out, since a file that has just been created is not
/// written yet; a hard link or a special file is found by the next rescan.
const WATCHED: AddWatchFlags = AddWatchFlags::IN_CLOSE_WRITE
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);
/// The watch looks at nothing any more.
const LOST: AddWatchFlags = AddWatchFlags::IN_DELETE_SELF
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_UNMOUNT)
    .union(AddWatchFlags::IN_IGNORED);

/// A watch on a directory.
#[derive(Debug)]
pub struct DirectoryWatch(AsyncFd<Raw>);

/// What happened in the directory.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Happened {
    /// Files that are complete, or gone.
    pub complete: BTreeSet<OsString>,
    /// Whether the directory itself went away: the watch has to be made anew.
    pub lost: bool,
}

/// What tokio asks for.
#[derive(Debug)]
struct Raw(Inotify);

// === impl DirectoryWatch ===

impl DirectoryWatch {
    /// Watches a directory from now on. Fails if it is not there, or if the user has too many watches; then rescans have to do.
    #[expect(
        deprecated,
        reason = "its successor is unsafe; `Raw` owns the descriptor, which stays open and the same while it lives"
    )]
    pub fn new(directory: &Path) -> nix::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        inotify.add_watch(directory, WATCHED)?;
        let registered = AsyncFd::with_interest(Raw(inotify), Interest::READABLE);
        registered.map(Self).map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
    }

    /// Waits until something happens. If the kernel's queue overflowed the names are missing: the caller looks at everything anyway.
    pub async fn happened(&self) -> nix::Result<Happened> {
        loop {
            let mut ready = match self.0.readable().await {
                Ok(ready) => ready,
                Err(error) => return Err(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)),
            };
            match self.0.get_ref().0.read_events() {
                Ok(events) => return Ok(events.into_iter().collect()),
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}

impl FromIterator<InotifyEvent> for Happened {
    fn from_iter<T: IntoIterator<Item = InotifyEvent>>(events: T) -> Self {
        let mut happened = Self::default();
        for event in events {
            happened.lost |= event.mask.intersects(LOST);
            happened.complete.extend(event.name);
        }
        happened
    }
}

impl AsRawFd for Raw {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    async fn names(watch: &DirectoryWatch) -> Vec<String> {
        let happened = watch.happened().await.unwrap();
        happened.complete.into_iter().map(|name| name.into_string().unwrap()).collect()
    }

    #[tokio::test]
    async fn names_files_that_are_complete_or_gone() {
        let dir = tempfile::tempdir().unwrap();
        let watch = DirectoryWatch::new(dir.path()).unwrap();
        let file = fs::File::create(dir.path().join("open")).unwrap();
        fs::write(dir.path().join("written"), "x").unwrap();
        assert_eq!(names(&watch).await, ["written"]);
        drop(file);
        assert_eq!(names(&watch).await, ["open"]);
        fs::rename(dir.path().join("open"), dir.path().join("moved")).unwrap();
        fs::remove_file(dir.path().join("written")).unwrap();
        assert_eq!(names(&watch).await, ["moved", "open", "written"]);
    }

    #[tokio::test]
    async fn says_when_the_directory_goes() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let watch = DirectoryWatch::new(&inner).unwrap();
        fs::remove_dir(&inner).unwrap();
        assert!(watch.happened().await.unwrap().lost);
        assert_eq!(DirectoryWatch::new(&inner).unwrap_err(), Errno::ENOENT);
    }
}
