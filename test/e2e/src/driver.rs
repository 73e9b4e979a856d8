//! The driver on one node: its command line, its log, and what it has mounted.

use serde_json::Value;

use crate::cluster::{Cluster, text};
use crate::kubectl::Kubectl;
use crate::wait::{SOON, until};

/// Where `deploy/` puts the driver.
const NAMESPACE: &str = "imagevol-system";
/// The labels of its pods.
const SELECTOR: &str = "app.kubernetes.io/name=imagevol,app.kubernetes.io/component=node";

/// The driver of a node.
#[derive(Debug, Clone)]
pub struct Driver {
    cluster: Cluster,
    node: String,
}

impl Driver {
    pub(crate) fn on(cluster: Cluster, node: &str) -> Self {
        Self { cluster, node: node.to_owned() }
    }

    /// The name of its pod. Panics unless there is one that is not being deleted.
    pub fn pod(&self) -> String {
        self.find_pod().unwrap_or_else(|| panic!("no driver on node {}", self.node))
    }

    /// Waits until a pod of it is ready.
    pub fn await_ready(&self) {
        until("a driver that is ready", SOON, || {
            let pod = self.find_pod().ok_or_else(|| "no pod".to_owned())?;
            let arguments = ["wait", "-n", NAMESPACE, "--for=condition=Ready", "pod", &pod, "--timeout=1s"];
            let waited = self.cluster.kubectl(&arguments);
            if waited.ok { Ok(()) } else { Err(waited.stderr) }
        });
    }

    /// Runs `imagevol` in its pod.
    pub fn ctl(&self, words: &[&str]) -> Kubectl {
        let pod = self.pod();
        self.cluster.kubectl(&[&["exec", "-n", NAMESPACE, &pod, "--", "/imagevol"], words].concat())
    }

    /// Runs `imagevol` in its pod with `-o json`; it must succeed.
    pub fn json(&self, words: &[&str]) -> Value {
        let arguments = [words, &["-o", "json"]].concat();
        serde_json::from_str(&self.ctl(&arguments).must(&arguments)).unwrap()
    }

    /// The volumes of a pod that it knows: wanted, under way, mounted.
    pub fn volumes(&self, pod_uid: &str) -> Vec<Value> {
        let all = self.json(&["get", "volumes", "--all-namespaces"]);
        let all = all["items"].as_array().or_else(|| all.as_array()).cloned().unwrap_or_default();
        all.into_iter().filter(|volume| volume.to_string().contains(pod_uid)).collect()
    }

    /// The pulls under way.
    pub fn pulls(&self) -> Vec<Value> {
        let all = self.json(&["get", "pulls"]);
        all["items"].as_array().or_else(|| all.as_array()).cloned().unwrap_or_default()
    }

    /// The last lines of its log.
    pub fn log(&self, lines: u32) -> String {
        let (pod, tail) = (self.pod(), format!("--tail={lines}"));
        let logged = self.cluster.kubectl(&["logs", "-n", NAMESPACE, &pod, &tail]);
        format!("{}{}", logged.stdout, logged.stderr)
    }

    fn find_pod(&self) -> Option<String> {
        let field = format!("spec.nodeName={}", self.node);
        let pods = self.cluster.json(&["get", "pods", "-n", NAMESPACE, "-l", SELECTOR, "--field-selector", &field]);
        let living = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
        pods["items"].as_array().unwrap().iter().find(living).map(|pod| text(&pod["metadata"]["name"]))
    }
}
