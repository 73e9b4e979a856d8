//! The command line's grammar and help.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::output::{DataFormat, ObjectFormat, TableFormat};
use crate::text;

mod completion;
mod space;

pub(crate) use completion::completion;
pub(crate) use space::{Gc, Pins, Prefetch, ReportFormat, Why};

/// Where imagevold listens by default.
const DEFAULT_SOCKET: &str = "/run/imagevol/imagevold.sock";

/// Commands in the order in which the help shows them.
const GROUPS: [(&str, &[&str]); 4] = [
    ("Pods", &["apply", "get", "describe", "wait", "path", "retry", "delete"]),
    ("Images", &["pull", "prefetch", "images", "inspect", "why", "pin", "unpin", "rmi", "import", "export"]),
    ("Node", &["status", "df", "gc", "fsck"]),
    ("Other", &["version", "completion", "help"]),
];

const EXAMPLES: &str = "\
Examples:
  imagevol apply -f pod.yaml                   Make its image volumes come true
  imagevol wait pod web --for=mounted          Wait until the content is there
  ls $(imagevol path pod web models)           Look into a volume
  imagevol describe pod web                    See what happened
  imagevol pull quay.io/crio/artifact:v2       Fetch an image ahead of its pods";

const TEMPLATE: &str = "{about-with-newline}\n{usage-heading} {usage}\n\n{before-help}Options:\n{options}{after-help}";

/// The colours of help.
pub(crate) const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default());

/// OCI images and artifacts as volumes of pods, on this node
#[derive(Debug, Parser)]
#[command(name = "imagevol", version, styles = STYLES, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Who is asked, and about what.
    #[command(flatten)]
    pub global: Global,
    /// What is to be done.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The daemon's socket
    #[arg(long, global = true, env = "IMAGEVOL_SOCKET", hide_env_values = true, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// The namespace of the objects
    #[arg(short, long, global = true, value_name = "NAMESPACE", default_value = "default")]
    pub namespace: String,
}

/// A command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create or change pods and secrets from manifests
    Apply(Apply),
    /// Delete pods and secrets, by name or by manifest
    Delete(Delete),
    /// Try a failed pod again
    #[command(override_usage = "imagevol retry [OPTIONS] pod NAME...")]
    Retry(Names),
    /// List pods, volumes, images, pulls, pins, events and more
    Get(Get),
    /// Show a pod in detail, with its volumes and events
    #[command(override_usage = "imagevol describe [OPTIONS] pod [NAME]...")]
    Describe(Names),
    /// Pull an image or artifact into the node's store
    Pull(Pull),
    /// List the images of this node
    Images(Images),
    /// Show an image's manifest and layers
    Inspect(Inspect),
    /// Remove images that nobody uses
    Rmi(Rmi),
    /// Import images from an OCI layout or a docker archive
    Import(Import),
    /// Write images to a tar, as an OCI layout
    Export(Export),
    /// Fetch images ahead of their pods, and keep them until one uses them
    Prefetch(Prefetch),
    /// Tell why an image is on this node, and when it may go
    Why(Why),
    /// Keep images from garbage collection
    Pin(Pins),
    /// Take pins back
    Unpin(Pins),
    /// Remove images that nobody needs
    Gc(Gc),
    /// Show what takes space
    Df(Report),
    /// Print the directory where a pod's volume is mounted
    Path(PathOf),
    /// Wait until pods are mounted, or failed
    Wait(Wait),
    /// Check the store and the mounts, and repair the store
    Fsck(Fsck),
    /// Show what the daemon stands on and is doing
    Status(Report),
    /// Show the versions of command line and daemon
    Version(Version),
    /// Print a shell's completion script
    Completion {
        /// The shell
        shell: Shell,
    },
}

/// `apply`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  imagevol apply -f pod.yaml
  imagevol apply -f manifests/ -f -  < secret.yaml
  imagevol apply --dry-run=server -o yaml -f pod.yaml")]
pub(crate) struct Apply {
    /// A manifest, a directory of manifests, or - for standard input; repeatable
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// server validates and sets defaults, but stores nothing; none does it all
    #[arg(long, value_enum, value_name = "STRATEGY", hide_possible_values = true, default_value_t = DryRun::None)]
    pub dry_run: DryRun,
    /// Print the objects instead of what became of them: json, yaml or name
    #[arg(short, long, value_enum, value_name = "FORMAT", hide_possible_values = true)]
    pub output: Option<ObjectFormat>,
}

/// `--dry-run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DryRun {
    /// Do it.
    None,
    /// Let the daemon do all but store it.
    Server,
}

/// `delete`.
#[derive(Debug, Args)]
#[command(override_usage = "imagevol delete [OPTIONS] TYPE NAME...\n       imagevol delete [OPTIONS] -f FILE...")]
pub(crate) struct Delete {
    /// The objects: pod NAME..., or pod/NAME...
    #[arg(value_name = "TYPE", required_unless_present = "files", conflicts_with = "files")]
    pub target: Vec<String>,
    /// A manifest, a directory of manifests, or - for standard input; repeatable
    #[arg(short, long = "filename", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// An object that is not there is no error
    #[arg(long)]
    pub ignore_not_found: bool,
    /// Another form of output: name
    #[arg(short, long, value_enum, value_name = "FORMAT", hide_possible_values = true)]
    pub output: Option<NameFormat>,
}

/// `-o` of commands that print names only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum NameFormat {
    /// `TYPE/NAME`, one a line.
    Name,
}

/// Commands about pods by name.
#[derive(Debug, Args)]
pub(crate) struct Names {
    /// The pods: pod NAME..., or pod/NAME...
    #[arg(value_name = "TYPE", required = true)]
    pub target: Vec<String>,
}

/// `get`.
#[derive(Debug, Args)]
#[command(
    override_usage = "imagevol get [OPTIONS] TYPE [NAME]...",
    after_help = "\
Examples:
  imagevol get pods -A -o wide
  imagevol get pod web -o yaml
  imagevol get events --for pod/web
  imagevol get volumes -A
  imagevol get pulls
  imagevol get prefetch"
)]
pub(crate) struct Get {
    /// pods, volumes, images, pulls, pins, prefetch, references or events; then names, to see only these
    #[arg(value_name = "TYPE", required = true)]
    pub target: Vec<String>,
    /// Objects of all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Another form of output: json, yaml, wide or name
    #[arg(short, long, value_enum, value_name = "FORMAT", hide_possible_values = true)]
    pub output: Option<TableFormat>,
    /// Without the line of headings
    #[arg(long)]
    pub no_headers: bool,
    /// Only events about this object, or volumes of this pod, as in pod/NAME
    #[arg(long = "for", value_name = "TYPE/NAME")]
    pub about: Option<String>,
}

/// `pull`.
#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// The image or artifact, as in quay.io/crio/artifact:v2
    pub reference: String,
    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
}

/// `images`.
#[derive(Debug, Args)]
pub(crate) struct Images {
    /// Another form of output: json, yaml, wide or name
    #[arg(short, long, value_enum, value_name = "FORMAT", hide_possible_values = true)]
    pub output: Option<TableFormat>,
    /// Without the line of headings
    #[arg(long)]
    pub no_headers: bool,
}

/// `inspect`.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// Reference, or digest in full or as `images` shows it
    pub reference: String,
    /// The form of output: json or yaml
    #[arg(short, long, value_enum, value_name = "FORMAT", hide_possible_values = true, default_value_t = DataFormat::Json)]
    pub output: DataFormat,
}

/// `rmi`.
#[derive(Debug, Args)]
pub(crate) struct Rmi {
    /// References, or digests in full or as `images` shows them
    #[arg(value_name = "REFERENCE", required = true)]
    pub references: Vec<String>,
    /// An image that is not there is no error
    #[arg(long)]
    pub ignore_not_found: bool,
}

/// `import`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  imagevol import models.tar
  imagevol import /media/usb/layout --repository quay.io/demo/models
  docker save busybox | imagevol import -")]
pub(crate) struct Import {
    /// A tar, plain or compressed, of an OCI image layout or of docker save; a directory with an OCI image layout; or - for a tar on
    /// standard input
    #[arg(value_name = "FILE", default_value = "-")]
    pub source: PathBuf,
    /// The name of the image, if there is only one
    #[arg(long, value_name = "REFERENCE", conflicts_with = "repository")]
    pub name: Option<String>,
    /// The repository of images that have only a tag for a name
    #[arg(long, value_name = "REPOSITORY")]
    pub repository: Option<String>,
    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
}

/// `export`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  imagevol export quay.io/demo/site:v1 -o site.tar
  imagevol export quay.io/demo/site:v1 | ssh other imagevol import -")]
pub(crate) struct Export {
    /// References, or digests in full or as `images` shows them
    #[arg(value_name = "REFERENCE", required = true)]
    pub references: Vec<String>,
    /// The file to write; - is standard output
    #[arg(short, long = "output", value_name = "FILE", default_value = "-")]
    pub output: PathBuf,
    /// Say nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
}

/// `path`.
#[derive(Debug, Args)]
#[command(
    override_usage = "imagevol path [OPTIONS] pod NAME VOLUME",
    after_help = "\
Examples:
  ls $(imagevol path pod web models)
  cat $(imagevol path pod web config --container shell)"
)]
pub(crate) struct PathOf {
    /// The pod's volume: pod NAME VOLUME, or pod/NAME VOLUME
    #[arg(value_name = "TYPE", required = true, num_args = 2..=3)]
    pub target: Vec<String>,
    /// The sub path that this container mounts, instead of the whole volume
    #[arg(short, long)]
    pub container: Option<String>,
    /// Which of the container's volume mounts, counted from 0, where it mounts several sub paths of the volume
    #[arg(long, requires = "container")]
    pub index: Option<u32>,
    /// Print the path even if nothing is mounted there yet
    #[arg(long)]
    pub allow_unmounted: bool,
}

/// `wait`.
#[derive(Debug, Args)]
#[command(override_usage = "imagevol wait [OPTIONS] pod NAME... --for <CONDITION>")]
pub(crate) struct Wait {
    /// The pods: pod NAME..., or pod/NAME...
    #[arg(value_name = "TYPE", required = true)]
    pub target: Vec<String>,
    /// mounted (all image volumes are) or failed (the pod is given up)
    #[arg(long = "for", value_enum, value_name = "CONDITION", hide_possible_values = true)]
    pub condition: Condition,
    /// How long, for each pod, as in 90s, 5m or 1h30m; 0 looks once
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = timeout)]
    pub timeout: Duration,
}

/// What `wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Condition {
    /// All image volumes are mounted.
    Mounted,
    /// The pod is given up.
    Failed,
}

/// `fsck`.
#[derive(Debug, Args)]
pub(crate) struct Fsck {
    /// Repair what can be repaired: set corrupt content aside, to be pulled again when it is wanted
    #[arg(long)]
    pub repair: bool,
    #[command(flatten)]
    pub report: Report,
}

/// What `status` and `fsck` share.
#[derive(Debug, Args)]
pub(crate) struct Report {
    /// Another form of output: json or yaml
    #[arg(short, long, value_enum, value_name = "FORMAT", hide_possible_values = true)]
    pub output: Option<DataFormat>,
}

/// `version`.
#[derive(Debug, Args)]
pub(crate) struct Version {
    /// Do not ask the daemon
    #[arg(long)]
    pub client: bool,
    /// Another form of output: json or yaml
    #[arg(short, long, value_enum, value_name = "FORMAT", hide_possible_values = true)]
    pub output: Option<DataFormat>,
}

/// The grammar, with the commands grouped in its help.
pub(crate) fn command() -> clap::Command {
    let command = Cli::command();
    let groups = grouped(&command);
    command.help_template(TEMPLATE).before_help(groups).after_help(EXAMPLES)
}

fn grouped(command: &clap::Command) -> String {
    let mut help = String::new();
    for (heading, names) in GROUPS {
        text::append(&mut help, format_args!("{heading}:\n"));
        for name in names {
            let about = command.find_subcommand(name).and_then(clap::Command::get_about).map(ToString::to_string);
            let about = about.unwrap_or_else(|| "Show the help of a command".to_owned());
            text::append(&mut help, format_args!("  {name:<12}{about}\n"));
        }
        help.push('\n');
    }
    help.truncate(help.trim_end().len());
    help
}

/// Go's durations (`time.ParseDuration`), which jiff's friendly format contains but for a bare 0.
fn timeout(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    // The parser tells of its own grammar, which has more than ours.
    let duration: Option<jiff::SignedDuration> = text.parse().ok();
    let duration = duration.ok_or("write numbers with units, as in 90s, 5m or 1h30m")?;
    Duration::try_from(duration).map_err(|_| "it cannot be negative".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[test]
    fn the_grammar_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn every_command_is_in_a_group() {
        let command = command();
        let grouped: Vec<_> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        for subcommand in command.get_subcommands() {
            assert!(grouped.contains(&subcommand.get_name()), "{}", subcommand.get_name());
        }
    }

    #[rstest]
    #[case("5m", 300_000)]
    #[case("1h30m", 5_400_000)]
    #[case("2m3.5s", 123_500)]
    #[case("500ms", 500)]
    #[case("0", 0)]
    #[case("0s", 0)]
    fn timeouts_are_gos(#[case] text: &str, #[case] milliseconds: u64) {
        assert_eq!(timeout(text), Ok(Duration::from_millis(milliseconds)));
    }

    #[rstest]
    #[case("5", "write numbers with units, as in 90s, 5m or 1h30m")]
    #[case("1h30", "write numbers with units, as in 90s, 5m or 1h30m")]
    #[case("soon", "write numbers with units, as in 90s, 5m or 1h30m")]
    #[case("-5m", "it cannot be negative")]
    fn other_timeouts_are_refused(#[case] text: &str, #[case] why: &str) {
        assert_eq!(timeout(text), Err(why.to_owned()));
    }
}
