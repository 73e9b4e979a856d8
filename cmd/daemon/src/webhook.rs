//! `imagevold webhook`: the translation of `volumes[].image` at admission, for clusters without mutating admission policies.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use imagevol_admission::webhook::{Options, run};
use imagevol_base::Supervisor;
use tokio::signal::unix::{SignalKind, signal};

/// What is still being written after the last answer gets this long.
const GRACE: Duration = Duration::from_secs(5);

/// Its flags. The node's configuration file is not read.
#[derive(Debug, Args)]
pub(crate) struct WebhookOptions {
    /// Where it listens
    #[arg(long, value_name = "ADDRESS", default_value = Options::LISTEN)]
    listen: SocketAddr,
    /// The Service by which the API server reaches it
    #[arg(long, value_name = "NAME", default_value = Options::SERVICE)]
    service: String,
    /// The namespace of the Service and of the Secret
    #[arg(long, value_name = "NAME", default_value = Options::NAMESPACE)]
    namespace: String,
    /// The Secret that keeps the certificate; it must exist and may be empty
    #[arg(long, value_name = "NAME", default_value = Options::SECRET)]
    secret: String,
    /// The MutatingWebhookConfiguration whose caBundle it keeps
    #[arg(long, value_name = "NAME", default_value = Options::CONFIGURATION)]
    configuration: String,
    /// Another name or address that the certificate holds for, for an API server that reaches it by URL; may be repeated
    #[arg(long = "hostname", value_name = "NAME")]
    hostnames: Vec<String>,
    /// How to reach the API server [default: as a pod does]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// Serves until SIGTERM or SIGINT.
pub(crate) fn serve(options: &WebhookOptions) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(until_told(options.settings()))
}

async fn until_told(options: Options) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let supervisor = Supervisor::new("webhook");
    let drain = options.drain;
    run(options, &supervisor).await.context("cannot start the webhook")?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: draining"),
        _ = interrupt.recv() => tracing::info!("SIGINT: draining"),
    }
    if !supervisor.shut_down(drain + GRACE).await {
        tracing::warn!("some requests did not end within the grace period");
    }
    Ok(ExitCode::SUCCESS)
}

// === impl WebhookOptions ===

impl WebhookOptions {
    fn settings(&self) -> Options {
        Options {
            listen: self.listen,
            service: self.service.clone(),
            namespace: self.namespace.clone(),
            secret: self.secret.clone(),
            configuration: self.configuration.clone(),
            hostnames: self.hostnames.clone(),
            kubeconfig: self.kubeconfig.clone(),
            drain: Options::DRAIN,
        }
    }
}
