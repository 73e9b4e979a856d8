//! Commands about what is kept, and for how long.

use std::time::Duration;

use clap::{Args, ValueEnum};

/// `gc`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  imagevol gc --dry-run -o wide   Say what would go and what would stay, and why
  imagevol gc --all               Remove every image that nobody needs")]
pub(crate) struct Gc {
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Every image that nobody needs, and not only as many as the thresholds ask for
    #[arg(long)]
    pub all: bool,
    /// Another form of output: json, yaml or wide
    #[arg(short, long, value_enum, value_name = "FORMAT", hide_possible_values = true)]
    pub output: Option<ReportFormat>,
}

/// `-o` of reports that have tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportFormat {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// With what stays.
    Wide,
}

/// `why`.
#[derive(Debug, Args)]
pub(crate) struct Why {
    /// An image by reference, or by digest in full or as `images` shows it; or the digest of a layer or blob
    #[arg(value_name = "IMAGE")]
    pub name: String,
    /// Another form of output: json or yaml
    #[arg(short, long, value_enum, value_name = "FORMAT", hide_possible_values = true)]
    pub output: Option<crate::output::DataFormat>,
}

/// `pin` and `unpin`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  imagevol pin quay.io/models/llama:v3
  imagevol pin 'quay.io/models/*'
  imagevol get pins")]
pub(crate) struct Pins {
    /// References, manifest digests, or globs over references, as in 'quay.io/models/*'
    #[arg(value_name = "PATTERN", required = true)]
    pub patterns: Vec<String>,
}

/// `prefetch`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  imagevol prefetch quay.io/models/llama:v3 --keep 72h
  imagevol get prefetch
  imagevol prefetch --forget quay.io/models/llama:v3")]
pub(crate) struct Prefetch {
    /// The images or artifacts
    #[arg(value_name = "REFERENCE", required = true)]
    pub references: Vec<String>,
    /// How long they are kept if no pod uses them, as in 90m or 72h
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = keep, conflicts_with = "forget")]
    pub keep: Duration,
    /// Keep them no longer, instead
    #[arg(long)]
    pub forget: bool,
    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
}

/// At least a second, in whole seconds.
fn keep(text: &str) -> Result<Duration, String> {
    let keep = super::timeout(text)?;
    if keep.as_secs() == 0 { Err("images are kept for a second at least".to_owned()) } else { Ok(keep) }
}
