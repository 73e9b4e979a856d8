//! `imagevol`: the command line of imagevol.
//!
//! In: arguments, manifests, and the daemon's answers over its unix socket. Out: tables, descriptions and errors in kubectl's form.
//! Never opens the daemon's state; whatever the daemon says is escaped before a terminal sees it. Called as `kubectl-imagevol`, it asks
//! the daemons of a cluster's nodes. Floor 7, imports `api` alone.

#![forbid(unsafe_code)]

mod cli;
mod client;
mod commands;
mod describe;
mod error;
mod manifests;
mod output;
mod plugin;
mod pods;
mod quantity;
mod session;
mod table;
mod target;
mod text;

use std::process::ExitCode;

use clap::FromArgMatches as _;

use crate::cli::Cli;
use crate::error::{CommandError, Result};

fn main() -> ExitCode {
    if plugin::is_called(std::env::args_os().next().as_deref()) {
        return plugin::main();
    }
    let parsed = cli::command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    match parsed {
        Ok(cli) => exit_code(run(cli)),
        Err(refusal) => explain(&refusal),
    }
}

fn run(cli: Cli) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CommandError::Runtime)?;
    runtime.block_on(commands::run(cli))
}

/// 0, or kubectl's 1 for every failure. A reader of our output that went away wanted no more.
fn exit_code(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(CommandError::Reported) => ExitCode::FAILURE,
        Err(error) => {
            session::report(&error);
            ExitCode::FAILURE
        }
    }
}

/// Help and version on standard output, wrong usage on standard error with kubectl's exit code 1 (clap's would be 2).
fn explain(refusal: &clap::Error) -> ExitCode {
    let printed = refusal.print();
    if refusal.use_stderr() || printed.is_err() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
