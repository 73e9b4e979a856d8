//! Says when the mount table changes (proc_pid_mounts(5): the file is marked as having a priority event).

use std::fs::File;
use std::io;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::Supervisor;

/// The table of the calling thread's mount namespace, as in the crate `mount`.
const TABLE: &str = "/proc/thread-self/mountinfo";

/// A watch on the mount table of this process.
#[derive(Debug)]
pub struct MountTableWatch(AsyncFd<File>);

// === impl MountTableWatch ===

impl MountTableWatch {
    /// Watches the table from now on.
    #[expect(
        deprecated,
        reason = "its successor is unsafe; the file is owned, and stays open and the same while it lives"
    )]
    pub fn new() -> io::Result<Self> {
        AsyncFd::with_interest(File::open(TABLE)?, Interest::PRIORITY).map(Self)
    }

    /// Waits until anything is mounted, moved or unmounted, also by this process. Changes in quick succession may be told as one.
    pub async fn changed(&self) -> io::Result<()> {
        self.0.ready(Interest::PRIORITY).await?.clear_ready();
        Ok(())
    }

    /// Tells of each change to whoever keeps the receiver, until the supervisor is cancelled.
    pub fn follow(self, supervisor: &Supervisor) -> watch::Receiver<()> {
        let (changes, receiver) = watch::channel(());
        let token = supervisor.token();
        supervisor.spawn("mount table", async move {
            let told = async {
                loop {
                    match self.changed().await {
                        Ok(()) => changes.send_replace(()),
                        Err(error) => {
                            return tracing::error!(%error, "changes of the mount table are not seen any more");
                        }
                    }
                }
            };
            tokio::select! {
                () = token.cancelled() => {}
                () = changes.closed() => {}
                () = told => {}
            }
        });
        receiver
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    /// In a mount namespace of its own thread, which needs root.
    #[tokio::test]
    async fn a_mount_and_an_unmount_are_changes() {
        if unshare(CloneFlags::CLONE_NEWNS).is_err() {
            assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "SKIPPED in CI: needs root");
            eprintln!("SKIPPED: this user may not make mounts of its own");
            return;
        }
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (watch, supervisor) = (MountTableWatch::new().unwrap(), Supervisor::new("test"));
        let mut changes = watch.follow(&supervisor);
        mount(Some("none"), dir.path(), Some("tmpfs"), MsFlags::empty(), none).unwrap();
        changes.changed().await.unwrap();
        umount2(dir.path(), MntFlags::MNT_DETACH).unwrap();
        changes.changed().await.unwrap();
        drop(changes);
        assert!(supervisor.shut_down(Duration::from_mins(1)).await);
    }
}
