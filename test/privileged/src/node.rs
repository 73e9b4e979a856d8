//! The daemon with one of its back ends, and pods that mount one image each.

use std::path::{Path, PathBuf};

use imagevol_test_support::daemon::Daemon;

use crate::tree::Tree;

/// How often the daemon is asked before a wait is given up. An answer takes some milliseconds: half a minute or so.
const ASKED: usize = 5000;

/// A running daemon that mounts with one back end.
#[derive(Debug)]
pub struct Node {
    /// The daemon.
    pub daemon: Daemon,
}

/// How the image of a pod is mounted.
#[derive(Debug, Clone, Default)]
pub struct Mounting {
    /// `subPath` of the container's volume mount.
    pub sub_path: Option<String>,
}

// === impl Node ===

impl Node {
    /// Starts a daemon that uses `backend`, with further lines of configuration.
    pub fn start(backend: &str, config: &str) -> Self {
        let mut daemon = Daemon::new().flags([format!("--image-backend={backend}")]).config(config);
        daemon.start();
        Self { daemon }
    }

    /// Applies a pod whose volume `content` is the image, and waits until it is mounted; where.
    pub fn mount(&self, pod: &str, reference: &str) -> PathBuf {
        self.daemon.apply(&manifest(pod, reference, &Mounting::default()));
        self.daemon.wait_mounted(pod);
        self.daemon.path(pod, "content")
    }

    /// The same with a sub path; where the container would see it.
    pub fn mount_sub_path(&self, pod: &str, reference: &str, sub_path: &str) -> PathBuf {
        let mounting = Mounting { sub_path: Some(sub_path.to_owned()) };
        self.daemon.apply(&manifest(pod, reference, &mounting));
        self.daemon.wait_mounted(pod);
        self.daemon.must(["path", "pod", pod, "content", "-c", "main"]).trim().into()
    }

    /// The tree of an image, mounted into a pod for the purpose; the pod is deleted again.
    pub fn tree(&self, reference: &str) -> Tree {
        let tree = Tree::of(&self.mount("tree", reference));
        self.daemon.must(["delete", "pod", "tree"]);
        tree
    }

    /// Fails unless the daemon finds nothing wrong with its store and mounts.
    pub fn assert_sound(&self) {
        let report = self.daemon.ctl(["fsck"]);
        assert!(report.ok, "fsck: {}{}\nlog:\n{}", report.stdout, report.stderr, self.daemon.log());
    }

    /// Asks the daemon again and again, which is what passes the time, until something holds.
    pub fn wait_until(&self, what: &str, holds: impl Fn() -> bool) {
        let held = (0..ASKED).any(|_| {
            self.daemon.must(["status"]);
            holds()
        });
        assert!(held, "never: {what}\nlog:\n{}", self.daemon.log());
    }

    /// What of unfinished downloads is on disk.
    pub fn ingest(&self) -> Vec<PathBuf> {
        entries(&self.daemon.state_dir().join("ingest"))
    }

    /// The mount points of pods, in the calling thread's namespace.
    pub fn pod_mounts(&self) -> Vec<PathBuf> {
        let root = self.daemon.root_dir();
        self.daemon.mounts().into_iter().filter(|point| point.starts_with(&root)).collect()
    }
}

/// A pod with one container `main` that mounts the image volume `content`.
pub fn manifest(pod: &str, reference: &str, mounting: &Mounting) -> String {
    let sub_path = mounting.sub_path.as_ref().map(|path| format!("\n      subPath: {path}")).unwrap_or_default();
    format!(
        "apiVersion: v1
kind: Pod
metadata:
  name: {pod}
spec:
  containers:
  - name: main
    image: debian
    volumeMounts:
    - name: content
      mountPath: /content{sub_path}
  volumes:
  - name: content
    image:
      reference: {reference}
"
    )
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    entries.filter_map(Result::ok).map(|entry| entry.path()).collect()
}
