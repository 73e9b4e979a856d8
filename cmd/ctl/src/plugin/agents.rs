//! Which of the driver's pods is asked: decided from what kubectl says.

use imagevol_api::corev1::Pod;

use super::kubectl::KubectlError;

/// The driver's pod of a node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Agent {
    /// The node.
    pub node: String,
    /// The name of the pod.
    pub pod: String,
}

/// The node that a pod runs on.
pub(crate) fn node_of(pod: &Pod) -> Result<String, KubectlError> {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|node| !node.is_empty());
    node.ok_or_else(|| KubectlError::NotBound { pod: pod.metadata.name.clone().unwrap_or_default() })
}

/// The driver's pods that run, by the names of their nodes: while one is replaced, the new one. With a node, there must be one on it.
pub(crate) fn running(pods: &[Pod], node: Option<&str>, namespace: &str) -> Result<Vec<Agent>, KubectlError> {
    let mut agents: Vec<Agent> = pods.iter().filter(|pod| runs(pod)).filter_map(agent).collect();
    agents.retain(|agent| node.is_none_or(|node| agent.node == node));
    agents.sort_by(|one, other| (&one.node, &one.pod).cmp(&(&other.node, &other.pod)));
    agents.dedup_by(|one, other| one.node == other.node);
    if agents.is_empty() {
        return Err(KubectlError::NoDriver { node: node.map(str::to_owned), namespace: namespace.to_owned() });
    }
    Ok(agents)
}

fn runs(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    phase == Some("Running") && pod.metadata.deletion_timestamp.is_none()
}

fn agent(pod: &Pod) -> Option<Agent> {
    Some(Agent { node: pod.spec.as_ref()?.node_name.clone()?, pod: pod.metadata.name.clone()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, node: &str, phase: &str) -> Value {
        json!({"metadata": {"name": name}, "spec": {"nodeName": node, "containers": []}, "status": {"phase": phase}})
    }

    fn pods(values: &[Value]) -> Vec<Pod> {
        values.iter().map(|value| serde_json::from_value(value.clone()).unwrap()).collect()
    }

    fn agent(node: &str, pod: &str) -> Agent {
        Agent { node: node.to_owned(), pod: pod.to_owned() }
    }

    #[test]
    fn every_node_is_asked_once_and_in_order() {
        let mut leaving = pod("old", "n1", "Running");
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let pods = pods(&[pod("b", "n2", "Running"), leaving, pod("a", "n1", "Running"), pod("c", "n3", "Pending")]);
        assert_eq!(running(&pods, None, "s").unwrap(), [agent("n1", "a"), agent("n2", "b")]);
        assert_eq!(running(&pods, Some("n2"), "s").unwrap(), [agent("n2", "b")]);
    }

    #[test]
    fn a_node_without_the_driver_is_an_error() {
        let pods = pods(&[pod("c", "n3", "Pending")]);
        let error = running(&pods, Some("n3"), "s").unwrap_err();
        assert_eq!(error.to_string(), "imagevol does not run on node \"n3\"");
        assert_eq!(running(&pods, None, "s").unwrap_err().to_string(), "imagevol does not run on any node");
    }

    #[test]
    fn a_pod_that_waits_for_its_node_has_none() {
        let bound = &pods(&[pod("a", "n1", "Pending")])[0];
        assert_eq!(node_of(bound).unwrap(), "n1");
        let waiting = &pods(&[pod("a", "", "Pending")])[0];
        assert_eq!(node_of(waiting).unwrap_err().to_string(), "pod \"a\" has not been given a node yet");
    }
}
