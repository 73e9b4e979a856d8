//! The contestants: from nothing to a file that can be read.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use imagevol_test_support::daemon::Daemon;

use crate::containerd::Containerd;
use crate::images::Published;
use crate::memory::{self, Peak};
use crate::sample::timed;

/// Read at the end, at most: enough to show that the content is there.
const READ: u64 = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// `skopeo copy` into an OCI layout, then `umoci unpack`; for artifacts the copy alone, which umoci cannot unpack.
    SkopeoUmoci,
    /// `buildah pull`, `from` and `mount`: containers/storage, as podman and CRI-O use it.
    Buildah,
    /// `ctr images pull` and `mount` with a containerd of its own, which runs already, as imagevol's daemon does.
    Containerd,
}

/// One pull.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pull {
    /// Until the file was read.
    pub(crate) time: Duration,
    /// What a sync took after that.
    pub(crate) sync: Duration,
}

/// imagevol, its daemon running over an empty store.
pub(crate) fn imagevol(published: &Published) -> Result<(Pull, Peak)> {
    let mut daemon = Daemon::new();
    daemon.start();
    sync(daemon.dir())?;
    let manifest = published.pod("p");
    let pull = || {
        daemon.apply(&manifest);
        daemon.wait_mounted("p");
        read(&daemon.path("p", "v").join(published.file))
    };
    let (peak, (time, result)) = memory::watch(daemon.pid(), || timed(pull))?;
    result?;
    let (sync, result) = timed(|| sync(daemon.dir()));
    result.map(|()| (Pull { time, sync }, peak))
}

// === impl Peer ===

impl Peer {
    pub(crate) const ALL: [Self; 3] = [Self::SkopeoUmoci, Self::Buildah, Self::Containerd];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SkopeoUmoci => "skopeo+umoci",
            Self::Buildah => "buildah",
            Self::Containerd => "containerd",
        }
    }

    pub(crate) fn programs(self) -> &'static [&'static str] {
        match self {
            Self::SkopeoUmoci => &["skopeo", "umoci"],
            Self::Buildah => &["buildah"],
            Self::Containerd => &["containerd", "ctr"],
        }
    }

    /// One pull into an empty directory, in which everything stays: ext4 is slow for minutes after many deletions.
    pub(crate) fn pull(self, published: &Published, dir: &Path) -> Result<Pull> {
        std::fs::create_dir_all(dir).context("make a directory")?;
        let pull = self.ready(published, dir)?;
        sync(dir)?;
        let (time, result) = timed(&pull);
        let (sync, synced) = timed(|| sync(dir));
        if self == Self::Buildah {
            // Of no interest when it was never mounted.
            run(buildah_command(dir).args(["umount", "--all"])).unwrap_or_default();
        }
        result.and(synced).map(|()| Pull { time, sync })
    }

    /// The pull, once whatever must run for it runs; that ends with what is returned.
    fn ready<'a>(self, published: &'a Published, dir: &'a Path) -> Result<Box<dyn Fn() -> Result<()> + 'a>> {
        Ok(match self {
            Self::SkopeoUmoci => Box::new(|| skopeo_umoci(published, dir)),
            Self::Buildah => Box::new(|| buildah(published, dir)),
            Self::Containerd => {
                let containerd = Containerd::start(dir)?;
                Box::new(move || containerd.pull(published))
            }
        })
    }
}

fn skopeo_umoci(published: &Published, dir: &Path) -> Result<()> {
    let layout = format!("oci:{}:1", dir.join("layout").display());
    let mut copy = Command::new("skopeo");
    copy.args(["--insecure-policy", "copy", "--quiet", "--preserve-digests", "--src-tls-verify=false"]);
    run(copy.arg(format!("docker://{}", published.reference)).arg(layout))?;
    if published.is_artifact() {
        let digest = published.image.layers.first().context("a file")?.digest.hex().to_owned();
        return read(&dir.join("layout/blobs/sha256").join(digest));
    }
    let mut unpack = Command::new("umoci");
    unpack.arg("unpack").arg("--image").arg(format!("{}:1", dir.join("layout").display())).arg(dir.join("bundle"));
    run(&mut unpack)?;
    read(&dir.join("bundle/rootfs").join(published.file))
}

fn buildah(published: &Published, dir: &Path) -> Result<()> {
    run(buildah_command(dir).args(["pull", "--quiet", "--tls-verify=false", &published.reference]))?;
    let container = run(buildah_command(dir).args(["from", "--pull-never", &published.reference]))?;
    let root = run(buildah_command(dir).args(["mount", container.trim()]))?;
    read(&PathBuf::from(root.trim()).join(published.file))
}

fn buildah_command(dir: &Path) -> Command {
    let mut command = Command::new("buildah");
    command.arg("--root").arg(dir.join("root")).arg("--runroot").arg(dir.join("runroot"));
    command.args(["--storage-driver", "overlay"]);
    command
}

/// Standard output of a command that must succeed.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {command:?}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{}", said.lines().last().unwrap_or("failed"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

pub(crate) fn read(path: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let count = file.take(READ).read_to_end(&mut Vec::new()).with_context(|| format!("read {}", path.display()))?;
    anyhow::ensure!(count > 0, "{} is empty", path.display());
    Ok(())
}

/// Nobody pays for what another wrote.
pub(crate) fn sync(dir: &Path) -> Result<()> {
    let dir = File::open(dir).context("open a directory")?;
    nix::unistd::syncfs(&dir).context("sync the file system")
}
