//! A containerd of its own, over an empty store.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::images::Published;
use crate::peers::{read, run};

/// Times it is asked whether it answers, a process each: it loads its plugins first.
const ASKED: u32 = 1000;

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
        let answers = (0..ASKED).any(|_| run(containerd.ctr().arg("version")).is_ok());
        ensure!(answers, "containerd does not answer; its log is in {}", dir.display());
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
        let asked = i32::try_from(self.child.id()).is_ok_and(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM).is_ok());
        if asked {
            self.child.wait().map(drop).unwrap_or_default();
        }
    }
}

/// The paths are the bench's own and need no escapes.
fn configuration(dir: &Path, socket: &Path) -> String {
    let (dir, socket) = (dir.display(), socket.display());
    let off = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"];
    let off = off.map(|plugin| format!("\"{plugin}\"")).join(", ");
    format!(
        "version = 2\nroot = \"{dir}/root\"\nstate = \"{dir}/state\"\ndisabled_plugins = [{off}]\n[grpc]\naddress = \"{socket}\"\n"
    )
}
