//! Child processes that go with all that they started.

use std::io;
use std::process::ExitStatus;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

/// A child in a process group of its own. Dropped before it was waited for, it is killed, and with it every descendant that
/// stayed in the group.
#[derive(Debug)]
pub struct ProcessGroup(Child);

// === impl ProcessGroup ===

impl ProcessGroup {
    /// Starts `command` as the leader of a new group.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        command.process_group(0).kill_on_drop(true).spawn().map(Self)
    }

    /// The leader, for its pipes.
    pub fn leader(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Waits for the leader's end. What it left running is not waited for, and not killed any more.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.0.wait().await
    }
}

impl Drop for ProcessGroup {
    /// The leader that was not waited for keeps its number, even when it has ended: the signal cannot meet strangers.
    fn drop(&mut self) {
        let Some(leader) = self.0.id().and_then(|id| i32::try_from(id).ok()) else { return };
        if let Err(error) = killpg(Pid::from_raw(leader), Signal::SIGKILL) {
            tracing::warn!(leader, %error, "cannot kill a process group");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use tokio::io::AsyncReadExt as _;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdout(Stdio::piped());
        command
    }

    /// The pipe's end comes when the last that can write into it is gone.
    #[tokio::test]
    async fn descendants_go_with_the_leader() {
        let mut group = ProcessGroup::spawn(&mut shell("sleep 1000 & echo started; wait")).unwrap();
        let mut out = group.leader().stdout.take().unwrap();
        let mut started = [0; 8];
        out.read_exact(&mut started).await.unwrap();
        drop(group);
        assert_eq!(out.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn whoever_was_waited_for_is_left_alone() {
        let mut group = ProcessGroup::spawn(&mut shell("exit 3")).unwrap();
        assert_eq!(group.wait().await.unwrap().code(), Some(3));
        assert_eq!(group.leader().id(), None);
    }
}
