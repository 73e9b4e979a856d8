//! Measures imagevol against other people's tools and against what the machine allows, as ratios within one run.
//!
//! A machine is never quiet: contestants take turns, round by round and in changing order, each round gives a ratio, and
//! the median of the ratios is the result. Seconds are shown beside it, and mean little elsewhere.
#![expect(clippy::print_stdout, reason = "a table on standard output is what this program is for")]

mod bounds;
mod cold;
mod containerd;
mod images;
mod kernel;
mod memory;
mod peers;
mod reading;
mod sample;
mod store;
mod warm;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use imagevol_test_support::daemon;
use imagevol_test_support::docker_registry::DockerRegistry;
use tempfile::TempDir;

use crate::images::Published;

/// A disk: EROFS cannot be mounted from a file on tmpfs, which `/tmp` may be.
const ON_DISK: &str = "/var/tmp";

/// Measure imagevol, as ratios within one run
#[derive(Debug, Parser)]
struct Options {
    /// How often each contestant runs
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Size of the model images; other sizes follow from it
    #[arg(long, default_value_t = 512, value_name = "MIB")]
    mib: usize,
    /// Leave out other people's tools
    #[arg(long)]
    alone: bool,
    /// Parts to run: names of images, and warm, kernel, read; all if none is named. Or `store` alone: a store of 10 000 images
    parts: Vec<String>,
}

/// What all measurements share.
struct Bench {
    options: Options,
    registry: DockerRegistry,
    work: TempDir,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.parts == ["store"] {
        return ended(store::run(options.rounds));
    }
    if !daemon::own_mounts("bench") || !daemon::have("bench", &["docker-registry"]) {
        return ExitCode::FAILURE;
    }
    ended(run(options))
}

fn ended(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<()> {
    let work = TempDir::with_prefix_in("imagevol-bench-", ON_DISK).context("make a work directory")?;
    let bench = Bench { options, registry: DockerRegistry::start(), work };
    println!(
        "{} rounds on {} cores; medians; a ratio is the median of the rounds' ratios.",
        bench.options.rounds,
        cores()
    );
    cold::run(&bench)?;
    warm::run(&bench)?;
    reading::run(&bench)
}

impl Bench {
    fn wants(&self, part: &str) -> bool {
        self.options.parts.is_empty() || self.options.parts.iter().any(|wanted| wanted == part)
    }

    fn dir(&self) -> &Path {
        self.work.path()
    }

    fn publish(&self, name: &'static str) -> Result<Published> {
        Published::new(name, self.options.mib, &self.registry)
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
