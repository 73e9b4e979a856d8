//! A namespace of a test's own, with what is in it.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::cluster::{Cluster, text};
use crate::driver::Driver;
use crate::events::Event;
use crate::images::docker_config;
use crate::kubectl::Kubectl;
use crate::wait::{SOON, until};

/// The label of all of them: `kubectl delete namespace -l imagevol.dev/e2e` takes away what a killed run left.
const LABEL: &str = "imagevol.dev/e2e=true";
/// Lines of the driver's log that a failed test shows.
const LOG_LINES: u32 = 80;

/// A namespace; deleted with the value. What is in it is shown before if the test fails.
#[derive(Debug)]
pub struct Namespace {
    cluster: Cluster,
    name: String,
}

impl Namespace {
    /// Makes it and waits until pods can be made in it.
    pub(crate) fn create(cluster: Cluster, test: &str, labels: &[&str]) -> Self {
        let name = format!("e2e-{test}-{}", run());
        cluster.must(&["create", "namespace", &name]);
        let namespace = Self { cluster, name };
        let (cluster, name) = (&namespace.cluster, &namespace.name);
        cluster.must(&[&["label", "namespace", name, LABEL], labels].concat());
        namespace.must(&["wait", "--for=create", "serviceaccount/default", "--timeout=60s"]);
        namespace
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Runs kubectl in it.
    pub fn kubectl(&self, args: &[&str]) -> Kubectl {
        self.cluster.kubectl(&[&["-n", &self.name], args].concat())
    }

    /// Runs kubectl in it, which must succeed.
    pub fn must(&self, args: &[&str]) -> String {
        self.cluster.must(&[&["-n", &self.name], args].concat())
    }

    /// Runs kubectl in it with `-o json`; it must succeed.
    pub fn json(&self, args: &[&str]) -> Value {
        self.cluster.json(&[&["-n", &self.name], args].concat())
    }

    /// Creates or changes an object; what is stored then.
    pub fn apply(&self, object: &Value) -> Value {
        let arguments = ["-n", &self.name, "apply", "-o", "json", "-f", "-"];
        serde_json::from_str(&self.cluster.must_with(&arguments, &object.to_string())).unwrap()
    }

    /// A pull secret for a registry.
    pub fn pull_secret(&self, name: &str, registry: &str, user: &str, password: &str) {
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name },
            "type": "kubernetes.io/dockerconfigjson",
            "stringData": { ".dockerconfigjson": docker_config(registry, user, password) },
        }));
    }

    /// Applies a pod and waits until it is ready; its UID.
    pub fn run(&self, pod: &Value) -> String {
        let uid = text(&self.apply(pod)["metadata"]["uid"]);
        self.await_ready(pod["metadata"]["name"].as_str().unwrap());
        uid
    }

    /// Waits until a pod's containers run.
    pub fn await_ready(&self, pod: &str) {
        self.must(&["wait", "--for=condition=Ready", "pod", pod, "--timeout=60s"]);
    }

    /// A pod as it is.
    pub fn pod(&self, name: &str) -> Value {
        self.json(&["get", "pod", name])
    }

    /// The driver on a pod's node.
    pub fn driver_of(&self, pod: &str) -> Driver {
        self.cluster.driver(self.pod(pod)["spec"]["nodeName"].as_str().expect("a pod on a node"))
    }

    /// Runs a command in a pod's container.
    pub fn exec(&self, pod: &str, command: &[&str]) -> Kubectl {
        self.kubectl(&[&["exec", pod, "--"], command].concat())
    }

    /// The text of a file as the container sees it.
    pub fn read(&self, pod: &str, file: &str) -> String {
        self.must(&["exec", pod, "--", "cat", file])
    }

    /// What a pod's containers wait for: reason and message of the first that waits.
    pub fn waiting(&self, pod: &str) -> Option<(String, String)> {
        let pod = self.pod(pod);
        let statuses = pod["status"]["containerStatuses"].as_array()?;
        let waiting = statuses.iter().map(|status| &status["state"]["waiting"]).find(|waiting| !waiting.is_null())?;
        Some((text(&waiting["reason"]), text(&waiting["message"])))
    }

    /// The events about a pod, oldest first.
    pub fn events(&self, pod: &str) -> Vec<Event> {
        let field = format!("involvedObject.kind=Pod,involvedObject.name={pod}");
        let list = self.json(&["get", "events", "--field-selector", &field, "--sort-by=.metadata.creationTimestamp"]);
        list["items"].as_array().unwrap().iter().map(Event::of).collect()
    }

    /// Waits for an event about a pod with this reason whose text has `part`.
    pub fn await_event(&self, pod: &str, reason: &str, part: &str) -> Event {
        let what = format!("event {reason} of {pod} with {part:?}");
        until(&what, SOON, || {
            let events = self.events(pod);
            let wanted = |event: &&Event| event.reason == reason && event.message.contains(part);
            events.iter().find(wanted).cloned().ok_or(events)
        })
    }

    /// Deletes a pod and waits until it is gone from the API server.
    pub fn delete_pod(&self, pod: &str, within: Duration) {
        self.must(&["delete", "pod", pod, "--wait=true", &format!("--timeout={}s", within.as_secs())]);
    }

    /// Everything that helps to understand a failure.
    #[expect(clippy::print_stderr, reason = "what a failed test shows")]
    fn show(&self) {
        for arguments in [
            &["get", "all,pvc", "-o", "wide"][..],
            &["describe", "pods"],
            &["get", "events", "--sort-by=.metadata.creationTimestamp"],
        ] {
            let shown = self.kubectl(arguments);
            eprintln!("--- kubectl -n {} {}\n{}{}", self.name, arguments.join(" "), shown.stdout, shown.stderr);
        }
        let logs = ["logs", "-n", "imagevol-system", "-l", "app.kubernetes.io/component=node", "--prefix"];
        let tail = format!("--tail={LOG_LINES}");
        eprintln!("--- the drivers' logs\n{}", self.cluster.kubectl(&[&logs[..], &[&tail]].concat()).stdout);
    }
}

/// What no other run has in its names, and so in the images that it names after them.
fn run() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    // Seconds alone are those of another process too; processes alone come again.
    format!("{:x}{:x}", std::process::id(), since.as_secs())
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show();
            if std::env::var("IMAGEVOL_E2E_KEEP").as_deref() == Ok("1") {
                return;
            }
        }
        // Its end takes a while, and no test needs to see it.
        self.cluster.kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
    }
}
