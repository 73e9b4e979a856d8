//! Memory of a process while something runs.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};

/// How often it is looked at: a buffer of a pull lives longer.
const EVERY: Duration = Duration::from_millis(10);

/// Peaks, in MB.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Peak {
    /// `VmHWM` (proc(5)): with pages of files, which the kernel can take back.
    pub(crate) resident: f64,
    /// The largest `RssAnon` seen.
    pub(crate) anonymous: f64,
}

/// Watches the process `pid` while `step` runs.
pub(crate) fn watch<T>(pid: u32, step: impl FnOnce() -> T) -> Result<(Peak, T)> {
    let (running, ended) = mpsc::channel::<()>();
    let watcher = thread::spawn(move || {
        let mut peak = Peak::default();
        loop {
            let last = ended.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout);
            peak.anonymous = peak.anonymous.max(field(pid, "RssAnon:")?);
            peak.resident = peak.resident.max(field(pid, "VmHWM:")?);
            if last {
                return Ok(peak);
            }
        }
    });
    let value = step();
    drop(running);
    let peak: Result<Peak> = watcher.join().map_err(|_| anyhow!("the memory's watcher panicked"))?;
    Ok((peak?, value))
}

fn field(pid: u32, name: &str) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("read the status of the daemon")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such line in the status")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().context("a number of KiB")?;
    Ok(kib * 1024.0 / 1e6)
}
