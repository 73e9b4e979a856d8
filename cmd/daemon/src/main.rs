//! `imagevold`, the node daemon: reads its configuration, builds everything, runs it, and drains on SIGTERM.

#![forbid(unsafe_code)]

mod admin;
mod api;
mod fsck;
mod http;
mod logging;
mod node;
mod options;
mod webhook;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use imagevol_api::config::ImagevolConfiguration;
use imagevol_base::Supervisor;
use tokio::signal::unix::{SignalKind, signal};

use crate::node::Node;
use crate::options::{Command, Options};

/// Exit code for a configuration that cannot be used (sysexits.h, `EX_CONFIG`).
const EX_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let options = Options::parse();
    let config = match options.configuration() {
        Ok(config) => config,
        Err(error) => return complain(&error, EX_CONFIG),
    };
    logging::init(&config.logging);
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return complain(&anyhow::anyhow!("a TLS provider is installed already"), 1);
    }
    match options.command {
        Some(Command::Webhook(options)) => webhook::serve(&options).unwrap_or_else(|error| complain(&error, 1)),
        Some(Command::Fsck { repair }) => {
            fsck::offline(&config, mode(repair)).unwrap_or_else(|error| complain(&error, 1))
        }
        None => run(&config).unwrap_or_else(|error| complain(&error, 1)),
    }
}

fn mode(repair: bool) -> fsck::Mode {
    if repair { fsck::Mode::Repair } else { fsck::Mode::Check }
}

fn run(config: &ImagevolConfiguration) -> anyhow::Result<ExitCode> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    let code = runtime.block_on(serve(config));
    // Blocking work that outlived the grace is left to the kernel: every write expects a kill.
    runtime.shutdown_background();
    code
}

/// Runs until SIGTERM or SIGINT.
async fn serve(config: &ImagevolConfiguration) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let (supervisor, scribe) = (Supervisor::new("imagevold"), Supervisor::new("controlplane"));
    match Node::start(config, &supervisor, &scribe).await? {
        Ok(node) => {
            admin::start(config.metrics_address, node.clone(), &supervisor).await?;
            api::start(&config.socket(), node.clone(), &supervisor).await?;
            let socket = config.socket();
            tracing::info!(node = node.name, backend = %node.backend, socket = %socket.display(), "imagevold is ready");
        }
        Err(unfit) => admin::start(config.metrics_address, unfit, &supervisor).await?,
    }
    sd_notify(&[sd_notify::NotifyState::Ready]);
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: draining"),
        _ = interrupt.recv() => tracing::info!("SIGINT: draining"),
    }
    sd_notify(&[sd_notify::NotifyState::Stopping]);
    let drained = supervisor.shut_down(config.shutdown_grace_period.into()).await;
    let told = scribe.shut_down(config.shutdown_grace_period.into()).await;
    if !(drained && told) {
        tracing::warn!("some work did not end within the grace period");
    }
    Ok(ExitCode::SUCCESS)
}

/// systemd is told where it listens; elsewhere this does nothing.
fn sd_notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}

#[expect(clippy::print_stderr, reason = "what ends the process at start reaches its starter")]
fn complain(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("caused by: {cause}");
    }
    ExitCode::from(code)
}
