//! The command line as its users run it, against a fake daemon: exact output, exit codes, and what is asked of the daemon.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests: a failure is a failed test")]

mod errors;
mod fake;
mod images;
mod plugin;
mod pods;
mod space;

use assert_cmd::Command;
use serde_json::{Value, json};

/// The command line without anything of the caller's environment in it.
fn imagevol() -> Command {
    let mut command = assert_cmd::cargo::cargo_bin_cmd!("imagevol");
    command.env_clear().env("TZ", "UTC");
    command
}

/// The documentation's pod, as the daemon would show it.
fn pod(name: &str, status: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": "u1", "creationTimestamp": "2001-01-01T00:00:00Z"},
        "spec": {
            "nodeName": "n1",
            "containers": [{"name": "shell", "image": "debian", "volumeMounts": [{"name": "volume", "mountPath": "/volume"}]}],
            "volumes": [{"name": "volume", "image": {"reference": "quay.io/crio/artifact:v2", "pullPolicy": "Always"}}],
        },
        "status": status,
    })
}

fn mounted() -> Value {
    json!({"phase": "Pending", "conditions": [{"type": "imagevol.dev/VolumesMounted", "status": "True"}]})
}

fn pulling() -> Value {
    json!({"phase": "Pending", "conditions": [{"type": "imagevol.dev/VolumesMounted", "status": "False", "reason": "Pulling"}]})
}

fn failed() -> Value {
    json!({"phase": "Failed", "reason": "ErrImagePull", "message": "not found"})
}

fn event(name: &str, reason: &str, seen: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default"}, "involvedObject": {"kind": "Pod", "name": "web", "uid": "u1"}, "type": "Normal",
        "reason": reason, "message": format!("{reason} image"), "source": {"component": "imagevol", "host": "n1"}, "count": 1,
        "firstTimestamp": seen, "lastTimestamp": seen,
    })
}

fn list(items: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": items})
}

/// Standard output of a command that succeeds without a word on standard error.
fn output(mut command: Command) -> String {
    let assert = command.assert().success().stderr("");
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

/// A digest of 64 equal digits.
fn digest(digit: char) -> String {
    format!("sha256:{}", digit.to_string().repeat(64))
}

#[test]
fn help_is_grouped_and_has_examples() {
    let mut command = imagevol();
    command.arg("--help");
    let help = output(command);
    for part in [
        "Pods:\n  apply ",
        "Images:\n  pull ",
        "Node:\n  status ",
        "Examples:\n  imagevol apply -f pod.yaml",
        "--socket <PATH>",
    ] {
        assert!(help.contains(part), "{part:?} is not in\n{help}");
    }
}

#[test]
fn wrong_usage_is_exit_code_1() {
    imagevol().arg("frobnicate").assert().code(1).stdout("");
    imagevol().args(["get", "pods", "-o", "xml"]).assert().code(1).stdout("");
}

#[test]
fn each_shell_has_its_completion() {
    for (shell, part) in [("bash", "_imagevol()"), ("zsh", "#compdef imagevol"), ("fish", "complete -c imagevol")] {
        let mut command = imagevol();
        command.args(["completion", shell]);
        assert!(output(command).contains(part), "{shell}");
    }
}

#[test]
fn completion_knows_the_types_of_resources() {
    let types = "pods volumes images pulls pins prefetch references events";
    for (shell, get, delete) in [
        ("bash", format!("--help {types}\""), "--help pod secret\"".to_owned()),
        ("zsh", format!(":({types})'"), ":(pod secret)'".to_owned()),
        ("fish", format!(" -a \"{types}\""), " -a \"pod secret\"".to_owned()),
    ] {
        let mut command = imagevol();
        command.args(["completion", shell]);
        let script = output(command);
        for part in [get, delete] {
            assert!(script.contains(&part), "{shell}: {part}");
        }
    }
}

#[test]
fn the_version_is_known_without_a_daemon() {
    let version = format!("Client Version: {}\n", env!("CARGO_PKG_VERSION"));
    imagevol().args(["version", "--client"]).assert().success().stdout(version.clone());
    imagevol().args(["version", "--socket", "/nonexistent"]).assert().code(1).stdout(version);
}

#[test]
fn the_version_of_the_daemon_is_asked() {
    let daemon =
        fake::Daemon::start([("GET /version", vec![fake::ok(&json!({"version": "9.9.9", "kernel": "6.12.0"}))])]);
    let text = format!("Client Version: {}\nDaemon Version: 9.9.9\nKernel: 6.12.0\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(output(daemon.imagevol(&["version"])), text);
}
