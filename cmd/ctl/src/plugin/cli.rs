//! The plugin's grammar, and which `imagevol` command each of its own stands for.

use std::ffi::OsString;

use clap::{Args, Parser, Subcommand, ValueEnum};
use imagevol_api::corev1::Pod;

/// Where the driver's pods are, as deploy/ installs them.
const SYSTEM_NAMESPACE: &str = "imagevol-system";

/// What imagevol does on the nodes of a cluster: what is mounted, pulled and referenced there
#[derive(Debug, Parser)]
#[command(
    name = "kubectl imagevol",
    bin_name = "kubectl imagevol",
    version,
    styles = crate::cli::STYLES,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
Examples:
  kubectl imagevol volumes web-0               What became of the image volumes of web-0
  kubectl imagevol images web-0                The images on the node of web-0, and who uses them
  kubectl imagevol pulls --node node1          How far the pulls of a node are
  kubectl imagevol status                      What the drivers of all nodes stand on
  kubectl imagevol run --node node1 -- pull quay.io/crio/artifact:v2"
)]
pub(crate) struct Plugin {
    /// Who is asked.
    #[command(flatten)]
    pub kubectl: Connection,
    /// The namespace of the pod
    #[arg(short, long, global = true, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// The namespace of the driver's pods
    #[arg(long, global = true, env = "IMAGEVOL_SYSTEM_NAMESPACE", hide_env_values = true, value_name = "NAMESPACE", default_value = SYSTEM_NAMESPACE)]
    pub system_namespace: String,
    /// What is wanted.
    #[command(subcommand)]
    pub command: Command,
}

/// kubectl's own options, which it takes behind a plugin's name only if the plugin hands them back.
#[derive(Debug, Args)]
pub(crate) struct Connection {
    /// kubectl's file of clusters and users
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<OsString>,
    /// The context in that file
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// The cluster in that file
    #[arg(long, global = true, value_name = "NAME")]
    cluster: Option<String>,
    /// The user in that file
    #[arg(long, global = true, value_name = "NAME")]
    user: Option<String>,
    /// Whom to act as
    #[arg(long = "as", global = true, value_name = "USER")]
    impersonate: Option<String>,
}

/// A command of the plugin.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the image volumes of a pod, or of nodes, and how far they are
    Volumes(Listing),
    /// List the images of nodes, and who uses them
    Images(Listing),
    /// List the pulls under way, with their progress
    Pulls(Listing),
    /// Show what the drivers stand on and are doing
    Status(Report),
    /// Check the stores and mounts of nodes
    Fsck(Report),
    /// Run any imagevol command on a node: run POD -- COMMAND...
    #[command(override_usage = "kubectl imagevol run [OPTIONS] [POD] -- <COMMAND>...")]
    Run(Run),
}

/// Which nodes.
#[derive(Debug, Args)]
pub(crate) struct Where {
    /// The node that this pod runs on; without pod and --node, every node
    #[arg(value_name = "POD", value_parser = pod_name)]
    pub pod: Option<String>,
    /// The node of this name
    #[arg(long, value_name = "NODE", conflicts_with = "pod")]
    pub node: Option<String>,
}

/// Commands with a table.
#[derive(Debug, Args)]
pub(crate) struct Listing {
    /// Which nodes.
    #[command(flatten)]
    place: Where,
    /// Another form of output: json, yaml, wide or name
    #[arg(short, long, value_enum, value_name = "FORMAT", hide_possible_values = true)]
    output: Option<Form>,
}

/// Commands with a text.
#[derive(Debug, Args)]
pub(crate) struct Report {
    /// Which nodes.
    #[command(flatten)]
    place: Where,
    /// Another form of output: json or yaml
    #[arg(short, long, value_enum, value_name = "FORMAT", hide_possible_values = true)]
    output: Option<Form>,
}

/// `run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Which nodes.
    #[command(flatten)]
    place: Where,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    words: Vec<String>,
}

/// `-o`, for the program in the pod to judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// A table with more columns.
    Wide,
    /// `TYPE/NAME`, one a line.
    Name,
}

// === impl Connection ===

impl Connection {
    /// The options with which kubectl reaches the cluster.
    pub(crate) fn options(&self) -> Vec<OsString> {
        let option = |name: &str, value: &str| OsString::from(format!("--{name}={value}"));
        let mut options: Vec<OsString> = Vec::new();
        if let Some(file) = &self.kubeconfig {
            let mut option = OsString::from("--kubeconfig=");
            option.push(file);
            options.push(option);
        }
        let named =
            [("context", &self.context), ("cluster", &self.cluster), ("user", &self.user), ("as", &self.impersonate)];
        options.extend(named.iter().filter_map(|(name, value)| value.as_deref().map(|value| option(name, value))));
        options
    }
}

// === impl Command ===

impl Command {
    /// Which nodes are asked.
    pub(crate) fn place(&self) -> &Where {
        match self {
            Self::Volumes(listing) | Self::Images(listing) | Self::Pulls(listing) => &listing.place,
            Self::Status(report) | Self::Fsck(report) => &report.place,
            Self::Run(run) => &run.place,
        }
    }

    /// The arguments for `imagevol` in the driver's pod, where the command was about a pod or not.
    pub(crate) fn words(&self, pod: Option<&Pod>) -> Vec<String> {
        match self {
            Self::Volumes(listing) => [with_form(&["get", "volumes"], listing.output), volumes_of(pod)].concat(),
            Self::Images(listing) => with_form(&["images"], listing.output),
            Self::Pulls(listing) => with_form(&["get", "pulls"], listing.output),
            Self::Status(report) => with_form(&["status"], report.output),
            Self::Fsck(report) => with_form(&["fsck"], report.output),
            Self::Run(run) => run.words.clone(),
        }
    }
}

/// The options that choose the volumes of a pod, or all of a node.
fn volumes_of(pod: Option<&Pod>) -> Vec<String> {
    let Some(pod) = pod else { return vec!["--all-namespaces".to_owned()] };
    let (namespace, name) = (pod.metadata.namespace.as_deref(), pod.metadata.name.as_deref());
    vec![format!("--namespace={}", namespace.unwrap_or("default")), format!("--for=pod/{}", name.unwrap_or_default())]
}

fn with_form(words: &[&str], form: Option<Form>) -> Vec<String> {
    let mut words: Vec<String> = words.iter().map(ToString::to_string).collect();
    if let Some(value) = form.and_then(|form| form.to_possible_value()) {
        words.push(format!("--output={}", value.get_name()));
    }
    words
}

/// `NAME`, `pod/NAME` and kubectl's other spellings of it.
fn pod_name(text: &str) -> Result<String, String> {
    let name = match text.split_once('/') {
        Some(("pod" | "pods" | "po", name)) => name,
        Some(_) => return Err("only pods have a node: NAME or pod/NAME".to_owned()),
        None => text,
    };
    if name.is_empty() || name.contains('/') { Err("no name of a pod".to_owned()) } else { Ok(name.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;
    use rstest::rstest;

    fn parse(line: &str) -> Plugin {
        Plugin::parse_from(line.split_whitespace())
    }

    #[test]
    fn the_grammar_is_sound() {
        Plugin::command().debug_assert();
    }

    #[rstest]
    #[case("p images web-0", Some("web-0"), None, "images")]
    #[case("p images pod/web-0 -o wide", Some("web-0"), None, "images --output=wide")]
    #[case("p volumes --node n1", None, Some("n1"), "get volumes --all-namespaces")]
    #[case("p pulls --node n1", None, Some("n1"), "get pulls")]
    #[case("p status", None, None, "status")]
    #[case("p fsck -o json --node n1", None, Some("n1"), "fsck --output=json")]
    #[case("p run web-0 -- pull -q a:1", Some("web-0"), None, "pull -q a:1")]
    #[case("p run --node n1 -- get pods -A", None, Some("n1"), "get pods -A")]
    fn commands_become_imagevols(
        #[case] line: &str,
        #[case] pod: Option<&str>,
        #[case] node: Option<&str>,
        #[case] words: &str,
    ) {
        let plugin = parse(line);
        let place = plugin.command.place();
        assert_eq!((place.pod.as_deref(), place.node.as_deref()), (pod, node));
        assert_eq!(plugin.command.words(None).join(" "), words);
    }

    #[rstest]
    #[case("p images service/web")]
    #[case("p images pod/")]
    #[case("p images web --node n1")]
    #[case("p run web")]
    #[case("p")]
    fn what_makes_no_sense_is_refused(#[case] line: &str) {
        assert!(Plugin::try_parse_from(line.split_whitespace()).is_err());
    }

    #[test]
    fn kubectls_options_are_handed_back() {
        let plugin = parse("p images --context c --as me --kubeconfig /k web -n ns");
        assert_eq!(plugin.kubectl.options(), ["--kubeconfig=/k", "--context=c", "--as=me"]);
        assert_eq!((plugin.namespace.as_deref(), plugin.system_namespace.as_str()), (Some("ns"), SYSTEM_NAMESPACE));
    }
}
