//! One more pod of an image that is there, against what an init container does: copy the tree.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use imagevol_test_support::daemon::Daemon;

use crate::sample::{ratio, seconds, text, timed};
use crate::{Bench, kernel, peers};

/// Pods of one round.
const PODS: usize = 20;

/// Prints what a pod costs, and what its mount costs in the kernel.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    if !bench.wants("warm") && !bench.wants("kernel") {
        return Ok(());
    }
    let published = bench.publish("many-small")?;
    let mut daemon = Daemon::new();
    daemon.start();
    daemon.apply(&published.pod("first"));
    daemon.wait_mounted("first");
    println!("\nOne more user of an image that is present (many-small), and the other way to it.\n");
    println!("| what | s | the other way | s | ratio |");
    println!("|---|---|---|---|---|");
    if bench.wants("warm") {
        pods(bench, &daemon, &|name| published.pod(name))?;
    }
    if bench.wants("kernel") {
        kernel::run(bench, &daemon)?;
    }
    Ok(())
}

fn pods(bench: &Bench, daemon: &Daemon, pod: &dyn Fn(&str) -> String) -> Result<()> {
    let tree = daemon.path("first", "v");
    let (mut ours, mut copies) = (Vec::new(), Vec::new());
    for round in 0..bench.options.rounds {
        peers::sync(bench.dir())?;
        ours.push(timed(|| start_pods(daemon, pod, round)).0 / u32::try_from(PODS)?);
        // Left where it is: ext4 is slow for minutes after many deletions.
        copies.push(copy(&tree, &bench.dir().join(format!("copy-{round}")))?);
    }
    let (pod, other) = (seconds(&ours), seconds(&copies));
    println!(
        "| pod mounted, one of {PODS} applied at once | {pod} | `cp -a` of the tree | {other} | **{}** |",
        text(ratio(&copies, &ours), 0)
    );
    Ok(())
}

fn start_pods(daemon: &Daemon, pod: &dyn Fn(&str) -> String, round: usize) {
    let names: Vec<String> = (0..PODS).map(|number| format!("r{round}-p{number}")).collect();
    let manifests: Vec<String> = names.iter().map(|name| pod(name)).collect();
    daemon.apply(&manifests.join("---\n"));
    let wait = ["wait", "pod"].into_iter().chain(names.iter().map(String::as_str));
    daemon.must(wait.chain(["--for=mounted", "--timeout=60s"]));
}

fn copy(from: &Path, to: &Path) -> Result<Duration> {
    let (time, result) = timed(|| peers::run(Command::new("cp").arg("-a").arg(from).arg(to)));
    result.map(|_| time)
}
