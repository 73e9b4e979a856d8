//! A containerd of its own, over an empty store.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::images::Published;
use crate::peers::{read, run};

/// It loads its plugins before it answers.
const START: Duration = Duration::from_secs(30);

/// A running containerd; it ends with this value, and what is mounted is unmounted.
pub(crate) struct Containerd {
    child: Child,
    socket: PathBuf,
    mounted: PathBuf,
}

// === impl Containerd ===

impl Containerd {
    /// Starts it without the CRI plugin, which pulls nothing of what is measured here, and waits until it answers.
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        let (config, socket) = (dir.join("config.toml"), dir.join("containerd.sock"));
        fs::write(&config, configuration(dir, &socket)).context("write containerd's configuration")?;
        let log = fs::File::create(dir.join("containerd.log")).context("make containerd's log")?;
        let mut command = Command::new("containerd");
        command.arg("--config").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().context("start containerd")?;
        let containerd = Self { child, socket, mounted: dir.join("mounted") };
        let began = Instant::now();
        while run(containerd.ctr().arg("version")).is_err() {
            ensure!(began.elapsed() < START, "containerd does not answer; its log is in {}", dir.display());
        }
        Ok(containerd)
    }

    /// Fetches, unpacks and mounts an image, and reads a file of it.
    pub(crate) fn pull(&self, published: &Published) -> Result<()> {
        let reference = &published.reference;
        run(self.ctr().args(["images", "pull", "--plain-http", "--snapshotter", "overlayfs", reference]))?;
        fs::create_dir(&self.mounted).context("make a directory")?;
        run(self.ctr().args(["images", "mount", "--snapshotter", "overlayfs", reference]).arg(&self.mounted))?;
        read(&self.mounted.join(published.file))
    }

    fn ctr(&self) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(&self.socket);
        command
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // Of no interest when it was never mounted.
        run(self.ctr().args(["images", "unmount"]).arg(&self.mounted)).unwrap_or_default();
        let pid = i32::try_from(self.child.id()).map(Pid::from_raw);
        let ended = pid.is_ok_and(|pid| kill(pid, Signal::SIGTERM).is_ok()) && self.child.wait().is_ok();
        if !ended {
            eprintln!("bench: containerd with the process ID {} could not be ended", self.child.id());
        }
    }
}

fn configuration(dir: &Path, socket: &Path) -> String {
    format!(
        "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\"]\n[grpc]\naddress = {socket:?}\n",
        dir.join("root"),
        dir.join("state"),
    )
}
