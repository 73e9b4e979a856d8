//! The kernel's part of a mount: clones of a staged image, against bind mounts.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use imagevol_mount::{Attributes, Interface as _, Kernel};
use imagevol_test_support::daemon::Daemon;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::os::fd::AsFd as _;

use crate::Bench;
use crate::sample::{ratio, seconds, text, timed};

/// Mounts of one round.
const MOUNTS: usize = 1000;

pub(crate) fn run(bench: &Bench, daemon: &Daemon) -> Result<()> {
    let mut staged = std::fs::read_dir(daemon.staging_dir()).context("list the staged images")?;
    let staged = staged.next().context("a staged image")?.context("a staged image")?.path();
    let (mut clones, mut binds) = (Vec::new(), Vec::new());
    for round in 0..bench.options.rounds {
        clones.push(measure(&bench.dir().join(format!("clones-{round}")), |targets| clone(&staged, targets))?);
        binds.push(measure(&bench.dir().join(format!("binds-{round}")), |targets| bind(&staged, targets))?);
    }
    let (ours, others) = (seconds(&clones), seconds(&binds));
    let ratio = text(ratio(&binds, &clones), 2);
    println!(
        "| {MOUNTS} clones attached, read-only, nosuid, nodev | {ours} | {MOUNTS} bind mounts and remounts | {others} | **{ratio}** |"
    );
    Ok(())
}

/// Makes directories, mounts on them, and takes all of it away.
fn measure(dir: &Path, step: impl FnOnce(&[PathBuf]) -> Result<()>) -> Result<Duration> {
    let targets: Vec<PathBuf> = (0..MOUNTS).map(|number| dir.join(number.to_string())).collect();
    targets.iter().try_for_each(std::fs::create_dir_all).context("make directories")?;
    let (time, result) = timed(|| step(&targets));
    result?;
    targets.iter().try_for_each(|target| umount2(target, MntFlags::MNT_DETACH)).context("unmount")?;
    std::fs::remove_dir_all(dir).context("remove directories")?;
    Ok(time)
}

/// As the daemon does it for a pod.
fn clone(staged: &Path, targets: &[PathBuf]) -> Result<()> {
    let staged = Kernel.open_staged(staged)?.context("nothing is staged")?;
    for target in targets {
        let detached = Kernel.clone_of(&staged, None, Attributes::default())?;
        Kernel.attach(detached, File::open(target).context("open")?.as_fd())?;
    }
    Ok(())
}

/// What `mount --bind` does, and again for `-o ro,nosuid,nodev`: the first call takes no such flags (mount(2)).
fn bind(staged: &Path, targets: &[PathBuf]) -> Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    for target in targets {
        mount(Some(staged), target, None::<&str>, MsFlags::MS_BIND, None::<&str>).context("bind")?;
        mount(None::<&str>, target, None::<&str>, flags, None::<&str>).context("remount")?;
    }
    Ok(())
}
