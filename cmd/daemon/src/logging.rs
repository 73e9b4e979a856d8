//! Structured logs on standard error: text for people, JSON for machines.

use imagevol_api::config::{LogFormat, LoggingConfiguration};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// The crates whose level the verbosity sets.
const CRATES: &[&str] = &[
    "imagevold",
    "imagevol_base",
    "imagevol_controlplane",
    "imagevol_images",
    "imagevol_imageservice",
    "imagevol_mount",
    "imagevol_registry",
    "imagevol_store",
    "imagevol_volume",
    "imagevol_volumemanager",
];

/// Starts logging. klog's levels map to ours: below 4 `info`, from 4 `debug`, from 6 `trace`; libraries stay at `warn` below 6.
pub(crate) fn init(config: &LoggingConfiguration) {
    let (ours, others) = match config.verbosity {
        0..=3 => (LevelFilter::INFO, "warn"),
        4..=5 => (LevelFilter::DEBUG, "warn"),
        _ => (LevelFilter::TRACE, "debug"),
    };
    let directives: Vec<String> = CRATES.iter().map(|name| format!("{name}={ours}")).collect();
    let filter = EnvFilter::new(format!("{others},{}", directives.join(",")));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => builder.json().init(),
    }
}
