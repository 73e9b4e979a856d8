//! Kills at exact places: strace ends a process at its nth call of a kind.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// System calls that change something on disk. Each is counted by itself.
const CHANGES: [&str; 11] = [
    "openat",
    "write",
    "pwrite64",
    "ftruncate",
    "fsync",
    "fdatasync",
    "rename",
    "unlink",
    "unlinkat",
    "mkdir",
    "rmdir",
];

/// A test that works in a process of its own, says `done`, and is killed before that.
#[derive(Clone, Copy)]
pub(crate) struct Victim {
    /// Its whole name.
    pub(crate) test: &'static str,
    /// The variable that tells it where its store lies.
    pub(crate) variable: &'static str,
}

impl Victim {
    /// Runs it until the `when`th call, and says whether it came to its end.
    pub(crate) fn work_until(self, state_dir: &Path, call: &str, when: u64) -> bool {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
        command.args(["-e", &format!("inject={call}:signal=SIGKILL:when={when}")]);
        command.arg(std::env::current_exe().unwrap());
        command.args(["--exact", self.test, "--nocapture", "--include-ignored"]);
        let output = command.env(self.variable, state_dir).output().unwrap();
        String::from_utf8_lossy(&output.stdout).contains("done")
    }

    /// Kills it at each change that it makes, each time in a new state directory; how often.
    pub(crate) fn kill_at_each_change(self, make: impl Fn() -> TempDir, check: impl Fn(&Path, &str, u64)) -> u64 {
        let mut kills = 0;
        for call in CHANGES {
            for when in 1.. {
                let dir = make();
                if self.work_until(dir.path(), call, when) {
                    break;
                }
                kills += 1;
                check(dir.path(), call, when);
            }
            println!("{kills} kills up to {call}");
        }
        kills
    }
}
