//! The commands, one a file: each asks the daemon, and renders what it says.

mod apply;
mod delete;
mod describe;
mod df;
mod export;
mod gc;
mod get;
mod images;
mod import;
mod listing;
mod node;
mod path;
mod pins;
mod prefetch;
mod pull;
mod pulls;
mod references;
mod version;
mod volumes;
mod wait;
mod why;

use std::io;

use crate::cli::{self, Cli, Command};
use crate::error::{CommandError, Result};
use crate::session::{self, Session};

/// Runs the command.
pub(crate) async fn run(cli: Cli) -> Result<()> {
    let Cli { global, command } = cli;
    let session = Session::new(global.socket, global.namespace);
    match command {
        Command::Apply(arguments) => apply::run(&session, &arguments).await,
        Command::Delete(arguments) => delete::run(&session, &arguments).await,
        Command::Retry(arguments) => delete::retry(&session, &arguments).await,
        Command::Get(arguments) => get::run(&session, &arguments).await,
        Command::Describe(arguments) => describe::run(&session, &arguments).await,
        Command::Pull(arguments) => pull::run(&session, &arguments).await,
        Command::Images(arguments) => images::list(&session, &arguments).await,
        Command::Inspect(arguments) => images::inspect(&session, &arguments).await,
        Command::Rmi(arguments) => images::remove(&session, &arguments).await,
        Command::Import(arguments) => import::run(&session, &arguments).await,
        Command::Export(arguments) => export::run(&session, &arguments).await,
        Command::Prefetch(arguments) => prefetch::run(&session, &arguments).await,
        Command::Why(arguments) => why::run(&session, &arguments).await,
        Command::Pin(arguments) => pins::pin(&session, &arguments).await,
        Command::Unpin(arguments) => pins::unpin(&session, &arguments).await,
        Command::Gc(arguments) => gc::run(&session, &arguments).await,
        Command::Df(arguments) => df::run(&session, &arguments).await,
        Command::Path(arguments) => path::run(&session, &arguments).await,
        Command::Wait(arguments) => wait::run(&session, &arguments).await,
        Command::Fsck(arguments) => node::fsck(&session, &arguments).await,
        Command::Status(arguments) => node::status(&session, &arguments).await,
        Command::Version(arguments) => version::run(&session, &arguments).await,
        Command::Completion { shell } => complete(shell),
    }
}

fn complete(shell: clap_complete::Shell) -> Result<()> {
    let types = [("get", &get::KNOWN[..]), ("delete", &delete::DELETABLE)];
    let script = cli::completion(shell, &types).map_err(|error| CommandError::Output(io::Error::other(error)))?;
    session::print(&script)
}
