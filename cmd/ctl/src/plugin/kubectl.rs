//! Runs kubectl.

use std::ffi::{OsStr, OsString};
use std::io;
use std::process::{Command, Output, Stdio};

use imagevol_api::corev1::Pod;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::text;

/// The variable that names another kubectl.
const PROGRAM: &str = "KUBECTL";
/// The labels of the driver's pods, as deploy/ gives them.
const LABELS: &str = "--selector=app.kubernetes.io/name=imagevol,app.kubernetes.io/component=node";
/// The driver's container in them.
const CONTAINER: &str = "--container=imagevold";

/// kubectl, and how it reaches the cluster.
#[derive(Debug)]
pub(crate) struct Kubectl {
    program: OsString,
    connection: Vec<OsString>,
}

/// Why the cluster could not be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KubectlError {
    /// There is no kubectl, or it cannot be run.
    #[error("cannot run {}", text::line(&program.to_string_lossy()))]
    Start {
        /// The program.
        program: OsString,
        #[source]
        source: io::Error,
    },
    /// kubectl ended with an error, which it has told.
    #[error("{}", text::block(message))]
    Failed {
        /// Its words.
        message: String,
    },
    /// What kubectl printed has another form.
    #[error("kubectl printed no {what}")]
    Decode {
        /// `pod`, `list of pods`.
        what: &'static str,
        #[source]
        source: serde_json::Error,
    },
    /// The pod waits for the scheduler.
    #[error("pod {pod:?} has not been given a node yet")]
    NotBound {
        /// `metadata.name`.
        pod: String,
    },
    /// No pod of the driver runs there.
    #[error("imagevol does not run on {}", place(node.as_deref()))]
    NoDriver {
        /// The node that was asked for; none for all.
        node: Option<String>,
        /// Where the driver's pods should be.
        namespace: String,
    },
}

type Result<T, E = KubectlError> = std::result::Result<T, E>;

#[derive(Deserialize)]
struct Pods {
    items: Vec<Pod>,
}

// === impl Kubectl ===

impl Kubectl {
    /// kubectl with these options; the environment may name another program than the one on PATH.
    pub(crate) fn new(connection: Vec<OsString>) -> Self {
        let program = std::env::var_os(PROGRAM).filter(|program| !program.is_empty());
        Self { program: program.unwrap_or_else(|| "kubectl".into()), connection }
    }

    /// A pod by name, of the given or kubectl's own namespace.
    pub(crate) fn pod(&self, namespace: Option<&str>, name: &str) -> Result<Pod> {
        let namespace = namespace.map(|namespace| format!("--namespace={namespace}"));
        let mut arguments = vec!["get", "pod", "--output=json"];
        arguments.extend(namespace.as_deref());
        arguments.extend(["--", name]);
        self.json(&arguments, "pod")
    }

    /// The driver's pods: all, or those of a node.
    pub(crate) fn driver_pods(&self, namespace: &str, node: Option<&str>) -> Result<Vec<Pod>> {
        let namespace = format!("--namespace={namespace}");
        let on_node = node.map(|node| format!("--field-selector=spec.nodeName={node}"));
        let mut arguments = vec!["get", "pods", "--output=json", LABELS, &namespace];
        arguments.extend(on_node.as_deref());
        Ok(self.json::<Pods>(&arguments, "list of pods")?.items)
    }

    /// Runs a program in the driver's container, on our own standard streams. Returns its exit code.
    pub(crate) fn exec(&self, namespace: &str, pod: &str, program: &str, words: &[String]) -> Result<u8> {
        let namespace = format!("--namespace={namespace}");
        let mut command = self.command(&["exec", &namespace, CONTAINER, pod, "--", program]);
        let status = command.args(words).status().map_err(|source| self.cannot_start(source))?;
        // Killed by a signal, or beyond what an exit code can be: a failure like any other.
        Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
    }

    fn json<T: DeserializeOwned>(&self, arguments: &[&str], what: &'static str) -> Result<T> {
        let output = self.output(arguments)?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(KubectlError::Failed { message });
        }
        serde_json::from_slice(&output.stdout).map_err(|source| KubectlError::Decode { what, source })
    }

    fn output(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.command(arguments);
        command.stdin(Stdio::null()).output().map_err(|source| self.cannot_start(source))
    }

    fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.connection).args(arguments);
        command
    }

    fn cannot_start(&self, source: io::Error) -> KubectlError {
        KubectlError::Start { program: self.program.clone(), source }
    }
}

// === impl KubectlError ===

impl KubectlError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Start { .. } => Some(format!("kubectl must be on PATH, or named by {PROGRAM}")),
            Self::NoDriver { namespace, .. } => Some(format!(
                "are its pods in namespace {}? `kubectl get pods -n {0} -o wide` shows them; --system-namespace names another one",
                text::line(namespace)
            )),
            Self::Failed { .. } | Self::Decode { .. } | Self::NotBound { .. } => None,
        }
    }
}

fn place(node: Option<&str>) -> String {
    node.map_or_else(|| "any node".to_owned(), |node| format!("node {node:?}"))
}
