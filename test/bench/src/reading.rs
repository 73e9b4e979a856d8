//! Reading a large file through the mount, against the same bytes in a plain file.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use imagevol_test_support::daemon::Daemon;

use crate::sample::{ratio, seconds, text, timed};
use crate::{Bench, peers};

/// What is read at once.
const CHUNK: usize = 1 << 20;

pub(crate) fn run(bench: &Bench) -> Result<()> {
    if !bench.wants("read") {
        return Ok(());
    }
    let published = bench.publish("read")?;
    let mut daemon = Daemon::new();
    daemon.start();
    daemon.apply(&published.pod("p"));
    daemon.wait_mounted("p");
    let mounted = daemon.path("p", "v").join(published.file);
    let plain = bench.dir().join("plain");
    std::fs::write(&plain, &published.contents.first().context("a file")?.bytes).context("write")?;
    peers::sync(bench.dir())?;
    println!("\nReading a file of {} MiB from the page cache.\n", 2 * bench.options.mib);
    println!("| when | mount s | plain file s | throughput of the mount, plain file = 1 |");
    println!("|---|---|---|---|");
    row("first read after the pull", &[read(&mounted)?], &[read(&plain)?]);
    let (mut through, mut direct) = (Vec::new(), Vec::new());
    for _ in 0..bench.options.rounds {
        through.push(read(&mounted)?);
        direct.push(read(&plain)?);
    }
    row("later reads", &through, &direct);
    Ok(())
}

fn row(when: &str, through: &[Duration], direct: &[Duration]) {
    println!("| {when} | {} | {} | **{}** |", seconds(through), seconds(direct), text(ratio(direct, through), 2));
}

fn read(path: &Path) -> Result<Duration> {
    let mut file = File::open(path).context("open")?;
    let mut buffer = vec![0; CHUNK];
    let (time, result) = timed(|| read_all(&mut file, &mut buffer));
    result.context("read").map(|()| time)
}

fn read_all(file: &mut File, buffer: &mut [u8]) -> std::io::Result<()> {
    while file.read(buffer)? > 0 {}
    Ok(())
}
