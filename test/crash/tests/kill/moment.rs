//! When to kill: waits for one moment of the daemon's life, seen from outside.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use imagevol_test_support::registry::{FakeRegistry, Gate};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// A moment.
#[derive(Debug, Clone)]
pub(crate) enum Moment {
    /// When there is nothing left to do.
    Idle,
    /// After so many milliseconds.
    Millis(u64),
    /// When the registry has answered so many requests.
    Requests(usize),
    /// After so many changes of files: made, written, renamed, deleted.
    Files(usize),
    /// After so many changes of the mount table.
    Mounts(usize),
    /// When a request has come to the gate.
    Gate(Gate),
}

/// Watches from before the first thing that counts.
pub(crate) struct Armed<'a> {
    runtime: Handle,
    watch: Watch<'a>,
}

enum Watch<'a> {
    Idle,
    Millis(u64),
    Requests(&'a FakeRegistry, usize),
    Files(Files, usize),
    Mounts(AsyncFd<File>, usize),
    Gate(Gate),
}

/// Directories in which changes count.
struct Files {
    inotify: AsyncFd<Pollable>,
    places: HashMap<WatchDescriptor, PathBuf>,
    seen: usize,
}

/// What `AsyncFd` asks for.
struct Pollable(Inotify);

/// How often is looked at what cannot wake anybody.
const LOOK: Duration = Duration::from_millis(1);
/// Where files come and go, below the directory of everything. The first holds the databases.
const PLACES: [&str; 10] = [
    "state",
    "state/ingest",
    "state/blobs/sha256",
    "state/layers/sha256",
    "state/images/sha256",
    "state/quarantine",
    "state/image_manager/pulling",
    "state/image_manager/pulled",
    "manifests",
    "kubelet/pods",
];

// === impl Armed ===

impl<'a> Armed<'a> {
    pub(crate) fn new(moment: Moment, dir: &Path, registry: &'a FakeRegistry, runtime: &Handle) -> Self {
        registry.clear_requests();
        let _inside = runtime.enter();
        let watch = match moment {
            Moment::Idle => Watch::Idle,
            Moment::Millis(millis) => Watch::Millis(millis),
            Moment::Requests(count) => Watch::Requests(registry, count),
            Moment::Files(count) => Watch::Files(Files::below(dir), count),
            Moment::Mounts(count) => {
                let table = File::open("/proc/thread-self/mountinfo").unwrap();
                // proc_pid_mountinfo(5): a change is an exceptional condition.
                Watch::Mounts(wakes(table, Interest::PRIORITY), count)
            }
            Moment::Gate(gate) => Watch::Gate(gate),
        };
        Self { runtime: runtime.clone(), watch }
    }

    /// Returns when the moment has come, or when the sender of `done` is gone.
    pub(crate) fn wait(self, done: oneshot::Receiver<()>) {
        let Self { runtime, watch } = self;
        runtime.block_on(async move {
            tokio::select! {
                biased;
                () = watch.come() => {}
                _ = done => {}
            }
        });
    }
}

#[expect(deprecated, reason = "what replaces it is unsafe; the descriptors here are owned by the value")]
fn wakes<T: AsRawFd>(inner: T, interest: Interest) -> AsyncFd<T> {
    AsyncFd::with_interest(inner, interest).unwrap()
}

// === impl Watch ===

impl Watch<'_> {
    async fn come(self) {
        match self {
            Self::Idle => std::future::pending().await,
            Self::Millis(millis) => tokio::time::sleep(Duration::from_millis(millis)).await,
            Self::Gate(gate) => gate.arrived(1).await,
            Self::Files(mut files, count) => {
                while files.seen < count {
                    files.read().await;
                }
            }
            Self::Mounts(table, count) => {
                for _ in 0..count {
                    table.ready(Interest::PRIORITY).await.unwrap().clear_ready();
                }
            }
            Self::Requests(registry, count) => {
                while registry.requests().len() < count {
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
    }
}

// === impl Pollable ===

impl AsRawFd for Pollable {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

// === impl Files ===

impl Files {
    fn below(dir: &Path) -> Self {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).unwrap();
        let inotify = wakes(Pollable(inotify), Interest::READABLE);
        let mut files = Self { inotify, places: HashMap::new(), seen: 0 };
        for place in PLACES {
            files.watch(&dir.join(place));
        }
        files
    }

    /// What is not there yet, or no more, is seen by its parent.
    fn watch(&mut self, place: &Path) {
        let changes = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_ONLYDIR;
        if let Ok(watched) = self.inotify.get_ref().0.add_watch(place, changes) {
            self.places.insert(watched, place.to_owned());
        }
    }

    async fn read(&mut self) {
        let mut ready = self.inotify.readable().await.unwrap();
        let events = ready.try_io(|inotify| Ok(inotify.get_ref().0.read_events()?));
        let events = events.map_or_else(|_| Vec::new(), |events| events.unwrap());
        self.seen += events.iter().filter(|event| !event.mask.contains(AddWatchFlags::IN_IGNORED)).count();
        for event in events {
            if let Some(made) = self.directory_made(&event) {
                self.watch(&made);
            }
        }
    }

    fn directory_made(&self, event: &InotifyEvent) -> Option<PathBuf> {
        let made = event.mask.contains(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_ISDIR);
        let name = event.name.as_ref().filter(|_| made)?;
        Some(self.places.get(&event.wd)?.join(name))
    }
}
