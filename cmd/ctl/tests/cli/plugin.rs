//! `kubectl imagevol` against a kubectl that answers from files, and writes down how it was called.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use assert_cmd::Command;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Answers `get pod` from `pod.json`, `get pods` from `agents.json`; an `exec` prints its words and ends with 7 on the node `bad`.
const KUBECTL: &str = r#"#!/bin/sh
here=${0%/*}
echo "$*" >>"$here/calls"
while [ "${1#--}" != "$1" ]; do shift; done
case "$1 $2" in
    'get pod') [ -e "$here/pod.json" ] || { echo 'Error from server (NotFound): pods "web" not found' >&2; exit 1; }
        cat "$here/pod.json" ;;
    'get pods') cat "$here/agents.json" ;;
    'exec '*) while [ "$1" != -- ]; do last=$1; shift; done; shift; echo "$last: $*"; [ "$last" != agent-bad ] || exit 7 ;;
esac
"#;

/// The plugin, its kubectl, and what that knows.
struct Cluster {
    directory: TempDir,
}

impl Cluster {
    /// A cluster whose driver runs on these nodes.
    fn with_driver_on(nodes: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let kubectl = directory.path().join("kubectl");
        std::fs::write(&kubectl, KUBECTL).unwrap();
        std::fs::set_permissions(&kubectl, std::fs::Permissions::from_mode(0o755)).unwrap();
        symlink(assert_cmd::cargo::cargo_bin!("imagevol"), directory.path().join("kubectl-imagevol")).unwrap();
        let agents: Vec<Value> = nodes.iter().map(|node| pod(&format!("agent-{node}"), node)).collect();
        let cluster = Self { directory };
        cluster.knows("agents.json", &json!({"items": agents}));
        cluster
    }

    fn knows(&self, file: &str, content: &Value) {
        std::fs::write(self.path().join(file), content.to_string()).unwrap();
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn plugin(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.path().join("kubectl-imagevol"));
        command.env_clear().env("PATH", "/usr/bin:/bin").env("KUBECTL", self.path().join("kubectl")).args(arguments);
        command
    }

    fn calls(&self) -> Vec<String> {
        std::fs::read_to_string(self.path().join("calls")).unwrap().lines().map(str::to_owned).collect()
    }
}

fn pod(name: &str, node: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"nodeName": node, "containers": []}, "status": {"phase": "Running"}})
}

#[test]
fn asks_the_driver_on_the_node_of_a_pod() {
    let cluster = Cluster::with_driver_on(&["n1", "n2"]);
    cluster.knows("pod.json", &pod("web", "n2"));
    let mut plugin = cluster.plugin(&["images", "pod/web", "-n", "shop", "--context", "prod", "-o", "wide"]);
    plugin.assert().success().stdout("agent-n2: /imagevol images --output=wide\n").stderr("");
    let calls = [
        "--context=prod get pod --output=json --namespace=shop -- web",
        "--context=prod get pods --output=json --selector=app.kubernetes.io/name=imagevol,app.kubernetes.io/component=node \
         --namespace=imagevol-system --field-selector=spec.nodeName=n2",
        "--context=prod exec --namespace=imagevol-system --container=imagevold agent-n2 -- /imagevol images --output=wide",
    ];
    assert_eq!(cluster.calls(), calls);
}

#[test]
fn chooses_the_volumes_of_a_pod() {
    let cluster = Cluster::with_driver_on(&["n1"]);
    let mut web = pod("web", "n1");
    web["metadata"]["namespace"] = json!("shop");
    cluster.knows("pod.json", &web);
    let text = "agent-n1: /imagevol get volumes --namespace=shop --for=pod/web\n";
    cluster.plugin(&["volumes", "web"]).assert().success().stdout(text);
}

#[test]
fn asks_every_node_and_says_which() {
    let cluster = Cluster::with_driver_on(&["n1", "bad", "n2"]);
    let text = "==> bad <==\nagent-bad: /imagevol status\n==> n1 <==\nagent-n1: /imagevol status\n==> n2 <==\nagent-n2: /imagevol status\n";
    cluster.plugin(&["status"]).assert().code(7).stdout(text);
}

#[test]
fn hands_any_command_on() {
    let cluster = Cluster::with_driver_on(&["n1"]);
    let mut plugin = cluster.plugin(&["run", "--node", "n1", "--", "get", "pods", "-A"]);
    plugin.assert().success().stdout("agent-n1: /imagevol get pods -A\n");
}

#[test]
fn repeats_kubectls_own_words() {
    let cluster = Cluster::with_driver_on(&["n1"]);
    let mut plugin = cluster.plugin(&["pulls", "web"]);
    plugin.assert().code(1).stdout("").stderr("Error from server (NotFound): pods \"web\" not found\n");
}

#[test]
fn says_where_the_driver_is_not() {
    let cluster = Cluster::with_driver_on(&["n1"]);
    let text = "\
error: imagevol does not run on node \"n9\"
hint: are its pods in namespace imagevol-system? `kubectl get pods -n imagevol-system -o wide` shows them; --system-namespace names another one
";
    cluster.plugin(&["pulls", "--node", "n9"]).assert().code(1).stdout("").stderr(text);
}

#[test]
fn says_that_there_is_no_kubectl() {
    let cluster = Cluster::with_driver_on(&[]);
    let mut plugin = cluster.plugin(&["status"]);
    let text = "\
error: cannot run /nonexistent
  caused by: No such file or directory (os error 2)
hint: kubectl must be on PATH, or named by KUBECTL
";
    plugin.env("KUBECTL", "/nonexistent").assert().code(1).stdout("").stderr(text);
}
