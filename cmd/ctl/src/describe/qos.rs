//! A pod's quality of service class, where its status does not say it.

use std::collections::BTreeMap;

use imagevol_api::corev1::{Container, PodSpec, PodStatus};

use super::filled;
use crate::quantity;

/// The resources that count (kubernetes, pkg/apis/core/v1/helper/qos, `supportedQoSComputeResources`).
const COUNTED: [&str; 2] = ["cpu", "memory"];

/// `Guaranteed`, `Burstable` or `BestEffort`: what the status says, else as `ComputePodQOS` has it.
pub(super) fn class<'a>(spec: &PodSpec, status: &'a PodStatus) -> &'a str {
    if let Some(class) = filled(status.qos_class.as_ref()) {
        return class;
    }
    let containers = || spec.init_containers.iter().flatten().chain(&spec.containers);
    let (requests, limits) = (sums(containers(), Side::Requests), sums(containers(), Side::Limits));
    if requests.is_empty() && limits.is_empty() {
        return "BestEffort";
    }
    let all_limited =
        containers().all(|container| COUNTED.iter().all(|name| amount(container, Side::Limits, name).is_some()));
    let as_requested = requests.iter().all(|(name, amount)| limits.get(name) == Some(amount));
    if all_limited && as_requested && requests.len() == limits.len() { "Guaranteed" } else { "Burstable" }
}

#[derive(Clone, Copy)]
enum Side {
    Requests,
    Limits,
}

fn sums<'a>(containers: impl Iterator<Item = &'a Container>, side: Side) -> BTreeMap<&'static str, i128> {
    let mut sums = BTreeMap::new();
    for container in containers {
        for name in COUNTED {
            if let Some(amount) = amount(container, side, name) {
                *sums.entry(name).or_insert(0) += amount;
            }
        }
    }
    sums
}

/// A positive amount; the API server defaults a missing request to the limit.
fn amount(container: &Container, side: Side, name: &str) -> Option<i128> {
    let resources = container.resources.as_ref()?;
    let limit = resources.limits.as_ref().and_then(|limits| limits.get(name));
    let quantity = match side {
        Side::Requests => resources.requests.as_ref().and_then(|requests| requests.get(name)).or(limit),
        Side::Limits => limit,
    }?;
    quantity::nanos(&quantity.0).filter(|amount| *amount > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    #[rstest]
    #[case(json!({}), "BestEffort")]
    #[case(json!({"requests": {"cpu": "0"}}), "BestEffort")]
    #[case(json!({"requests": {"ephemeral-storage": "1Gi"}}), "BestEffort")]
    #[case(json!({"requests": {"cpu": "1"}}), "Burstable")]
    #[case(json!({"limits": {"cpu": "1"}}), "Burstable")]
    #[case(json!({"limits": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed")]
    #[case(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}), "Guaranteed")]
    #[case(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}), "Burstable")]
    fn classes_are_kubernetes(#[case] resources: Value, #[case] expected: &str) {
        let spec: PodSpec =
            serde_json::from_value(json!({"containers": [{"name": "c", "resources": resources}]})).unwrap();
        assert_eq!(class(&spec, &PodStatus::default()), expected);
    }

    #[test]
    fn the_status_knows_better() {
        let status = PodStatus { qos_class: Some("Guaranteed".to_owned()), ..PodStatus::default() };
        assert_eq!(class(&PodSpec::default(), &status), "Guaranteed");
    }
}
