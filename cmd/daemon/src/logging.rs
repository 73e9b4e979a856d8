//! Structured logs on standard error: text for people, JSON for machines.

use imagevol_api::config::{LogFormat, LoggingConfiguration};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// What the targets of our own crates begin with.
const OURS: &str = "imagevol";
/// Libraries that log what they were sent: answers of an API server may hold secrets.
const SILENT: [&str; 2] = ["kube_client", "kube_runtime"];

/// Starts logging. klog's levels map to ours: below 4 `info`, from 4 `debug`, from 6 `trace`; libraries stay at `warn` below 6.
pub(crate) fn init(config: &LoggingConfiguration) {
    let (ours, others) = match config.verbosity {
        0..=3 => (LevelFilter::INFO, "warn"),
        4..=5 => (LevelFilter::DEBUG, "warn"),
        _ => (LevelFilter::TRACE, "debug"),
    };
    let silent = SILENT.map(|name| format!("{name}=off")).join(",");
    let filter = EnvFilter::new(format!("{others},{silent},{OURS}={ours}"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => builder.json().init(),
    }
}
