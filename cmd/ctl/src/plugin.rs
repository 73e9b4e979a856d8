//! `kubectl imagevol`: the same program under the name that kubectl looks for.
//!
//! In: arguments and what kubectl says of the cluster. Out: what `imagevol` says in the driver's pod on the node in question, through
//! `kubectl exec`. It needs kubectl alone, and whatever rights that has: to see pods, and to exec into the driver's.

mod agents;
mod cli;
mod kubectl;

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use crate::error::Result;
use crate::session;
use agents::Agent;
use cli::Plugin;
use kubectl::Kubectl;

pub(crate) use kubectl::KubectlError;

/// The name under which kubectl finds plugins (kubectl, pkg/cmd/plugin: `kubectl-` and the command).
const NAME: &str = "kubectl-imagevol";
/// Where the command line is in the image of the driver.
const IN_POD: &str = "/imagevol";

/// Whether the program was called as kubectl's plugin.
pub(crate) fn is_called(program: Option<&OsStr>) -> bool {
    program.and_then(|program| Path::new(program).file_name()).is_some_and(|name| name == NAME)
}

/// Parses the command line and runs it. The exit code is that of what ran on the node.
pub(crate) fn main() -> ExitCode {
    let parsed = Plugin::command().try_get_matches().and_then(|matches| Plugin::from_arg_matches(&matches));
    match parsed {
        Ok(plugin) => match run(&plugin) {
            Ok(code) => code,
            Err(error) => crate::exit_code(Err(error)),
        },
        Err(refusal) => crate::explain(&refusal),
    }
}

fn run(plugin: &Plugin) -> Result<ExitCode> {
    let kubectl = Kubectl::new(plugin.kubectl.options());
    let place = plugin.command.place();
    let pod = place.pod.as_ref().map(|name| kubectl.pod(plugin.namespace.as_deref(), name)).transpose()?;
    let node = match &pod {
        Some(pod) => Some(agents::node_of(pod)?),
        None => place.node.clone(),
    };
    let agents = agents(&kubectl, &plugin.system_namespace, node.as_deref())?;
    let several = agents.len() > 1;
    let words = plugin.command.words(pod.as_ref());
    let mut worst = ExitCode::SUCCESS;
    for agent in &agents {
        if several {
            session::print(&format!("==> {} <==\n", agent.node))?;
        }
        let code = kubectl.exec(&plugin.system_namespace, &agent.pod, IN_POD, &words)?;
        if code != 0 {
            worst = ExitCode::from(code);
        }
    }
    Ok(worst)
}

/// The driver's pods that are asked: that of a node, or all.
fn agents(kubectl: &Kubectl, namespace: &str, node: Option<&str>) -> Result<Vec<Agent>> {
    let pods = kubectl.driver_pods(namespace, node)?;
    Ok(agents::running(&pods, node, namespace)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(Some("/usr/local/bin/kubectl-imagevol"), true)]
    #[case(Some("kubectl-imagevol"), true)]
    #[case(Some("/usr/bin/imagevol"), false)]
    #[case(Some("/opt/kubectl-imagevol/imagevol"), false)]
    #[case(None, false)]
    fn goes_by_its_name(#[case] program: Option<&str>, #[case] plugin: bool) {
        assert_eq!(is_called(program.map(OsStr::new)), plugin);
    }
}
