//! The daemon with its killer: what it answered before the end counts, what it did not answer is unknown.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use imagevol_test_support::daemon::{Daemon, Ran};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::moment::Armed;
use crate::mounts::{self, Mount};

/// How long anything may take that must come to pass. Nothing here takes a hundredth of it.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// A daemon, alive or not.
pub(crate) struct Node {
    pub(crate) daemon: Daemon,
    ending: AtomicBool,
}

// === impl Node ===

impl Node {
    pub(crate) fn new() -> Self {
        // The test's own registry only; whoever gives a pull up gives it up at once. Images are collected by command alone, young ones too.
        let config = "dockerConfigDirs: []\nabandonedPullGracePeriod: 0s\nshutdownGracePeriod: 5s\n\
                      imageGCHighThresholdPercent: 100\nimageMinimumGCAge: 0s";
        Self { daemon: Daemon::new().config(config), ending: AtomicBool::new(false) }
    }

    pub(crate) fn start(&mut self) {
        self.ending.store(false, Ordering::SeqCst);
        self.daemon.start();
    }

    /// Starts it and kills it again at that moment, or when it answers.
    pub(crate) fn start_and_kill(&mut self, armed: Armed<'_>) {
        self.ending.store(false, Ordering::SeqCst);
        self.daemon.spawn();
        std::thread::scope(|scope| {
            let (done, ended) = oneshot::channel();
            let node = &*self;
            scope.spawn(move || node.end_at(armed, Signal::SIGKILL, ended));
            while !node.is_ending() && !node.daemon.ctl(["status"]).ok {}
            drop(done);
        });
        self.daemon.kill();
    }

    /// Waits for the moment, or until the sender of `done` is gone, and sends the signal.
    pub(crate) fn end_at(&self, armed: Armed<'_>, signal: Signal, done: oneshot::Receiver<()>) {
        armed.wait(done);
        // First: an answer that does not come from here on has a reason.
        self.ending.store(true, Ordering::SeqCst);
        kill(Pid::from_raw(self.daemon.pid().try_into().unwrap()), signal).unwrap();
    }

    /// Whether it has been, or will be in a moment, killed.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    /// Runs a command. `None` if the daemon was killed before it answered.
    pub(crate) fn ask<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Option<Ran> {
        let ran = self.daemon.ctl(arguments);
        (ran.ok || !self.is_ending()).then_some(ran)
    }

    /// Runs a command that can only fail because the daemon was killed; whether it succeeded.
    pub(crate) fn acknowledges(&self, arguments: &[&str]) -> bool {
        let Some(ran) = self.ask(arguments) else { return false };
        assert!(ran.ok, "{arguments:?}: {}\n{}", ran.stderr, self.daemon.log());
        true
    }

    /// The same, of a command that reads a file on its standard input.
    pub(crate) fn acknowledges_reading(&self, file: &Path, arguments: &[&str]) -> bool {
        let ran = self.daemon.ctl_command().args(arguments).stdin(File::open(file).unwrap()).output().unwrap();
        let text = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success() || self.is_ending(), "{arguments:?}: {text}\n{}", self.daemon.log());
        ran.status.success()
    }

    /// The items of a list.
    pub(crate) fn items(&self, arguments: &[&str]) -> Vec<Value> {
        let list = self.daemon.json(arguments);
        list["items"].as_array().unwrap_or_else(|| panic!("{list}")).clone()
    }

    /// Asks again and again until there is an answer.
    pub(crate) fn until<T>(&self, what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match look() {
                Ok(found) => return found,
                Err(seen) if Instant::now() > deadline => {
                    panic!("{what} has not come to pass: {seen}\n{}", self.daemon.log())
                }
                Err(_) => {}
            }
        }
    }

    pub(crate) fn mounts(&self) -> std::collections::BTreeMap<PathBuf, Mount> {
        mounts::table(self.daemon.dir())
    }

    /// Names in a directory below that of everything; none if it is not there.
    pub(crate) fn names(&self, place: &str) -> BTreeSet<String> {
        let entries = std::fs::read_dir(self.daemon.dir().join(place)).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}
