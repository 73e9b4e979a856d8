//! Questions that several parts of imagevol ask about a pod.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::corev1::{Container, ImageVolumeSource, ObjectReference, Pod, ResourceRequirements, Volume};
use crate::metav1::ObjectMeta;

use super::quantity;

/// Phases in which nothing of a pod runs any more, nor ever will again (core/v1 `PodPhase`).
const ENDED: [&str; 2] = ["Succeeded", "Failed"];
/// Resources that decide a pod's QoS class (Kubernetes, `pkg/apis/core/v1/helper/qos`).
const QOS_RESOURCES: [&str; 2] = ["cpu", "memory"];

/// A pod's quality of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QosClass {
    /// Every container limits cpu and memory, and requests as much.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

// === impl QosClass ===

impl QosClass {
    /// The name as `status.qosClass` has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// The pod's image volumes, in the order of its spec.
pub fn image_volumes(pod: &Pod) -> impl Iterator<Item = (&Volume, &ImageVolumeSource)> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    volumes.iter().filter_map(|volume| volume.image.as_ref().map(|image| (volume, image)))
}

/// Whether nothing is to be mounted for the pod any more: it is being deleted, or has ended.
pub fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_some() || phase.is_some_and(|phase| ENDED.contains(&phase))
}

/// What an event about the pod refers to.
pub fn pod_ref(pod: &Pod) -> ObjectReference {
    let ObjectMeta { namespace, name, uid, resource_version, .. } = &pod.metadata;
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: namespace.clone(),
        name: name.clone(),
        uid: uid.clone(),
        resource_version: resource_version.clone(),
        field_path: None,
    }
}

/// What an event about one of the pod's containers refers to; `None` if the pod has no container of that name.
///
/// (Kubernetes, `pkg/kubelet/container/ref.go`, `fieldPath`.)
pub fn container_ref(pod: &Pod, container: &str) -> Option<ObjectReference> {
    let spec = pod.spec.as_ref()?;
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let ephemeral = spec.ephemeral_containers.as_deref().unwrap_or_default();
    let list = if spec.containers.iter().any(|each| each.name == container) {
        "containers"
    } else if init.iter().any(|each| each.name == container) {
        "initContainers"
    } else if ephemeral.iter().any(|each| each.name == container) {
        "ephemeralContainers"
    } else {
        return None;
    };
    Some(ObjectReference { field_path: Some(format!("spec.{list}{{{container}}}")), ..pod_ref(pod) })
}

/// The pod's QoS class (Kubernetes, `pkg/apis/core/v1/helper/qos/qos.go`, `ComputePodQOS`).
pub fn qos_class(pod: &Pod) -> QosClass {
    let Some(spec) = &pod.spec else { return QosClass::BestEffort };
    let init = spec.init_containers.iter().flatten();
    let of_container = |container: &'_ Container| container.resources.clone().unwrap_or_default();
    let all: Vec<_> = match &spec.resources {
        Some(of_pod) => vec![of_pod.clone()],
        None => spec.containers.iter().chain(init).map(of_container).collect(),
    };
    let (mut requests, mut limits, mut all_limited) = (BTreeMap::new(), BTreeMap::new(), true);
    for ResourceRequirements { limits: limit, requests: request, .. } in &all {
        add(&mut requests, &positive(request.as_ref()));
        let limit = positive(limit.as_ref());
        all_limited &= limit.len() == QOS_RESOURCES.len();
        add(&mut limits, &limit);
    }
    match (requests.is_empty() && limits.is_empty(), all_limited && requests == limits) {
        (true, _) => QosClass::BestEffort,
        (false, true) => QosClass::Guaranteed,
        (false, false) => QosClass::Burstable,
    }
}

type Amounts = BTreeMap<&'static str, i128>;

fn positive(list: Option<&BTreeMap<String, Quantity>>) -> Amounts {
    let amount = |name: &'static str| quantity::nanos(&list?.get(name)?.0).filter(|amount| *amount > 0);
    QOS_RESOURCES.into_iter().filter_map(|name| amount(name).map(|amount| (name, amount))).collect()
}

fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = total.entry(name).or_default();
        *sum = sum.saturating_add(*amount);
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "reads as the literal that it is given")]
    fn pod(spec: serde_json::Value) -> Pod {
        let metadata = json!({"name": "p", "namespace": "n", "uid": "u", "resourceVersion": "7"});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    #[rstest]
    #[case(json!({}), QosClass::BestEffort)]
    #[case(json!({"limits": {"cpu": "0"}}), QosClass::BestEffort)]
    #[case(json!({"limits": {"ephemeral-storage": "1Gi"}}), QosClass::BestEffort)]
    #[case(json!({"requests": {"cpu": "1"}}), QosClass::Burstable)]
    #[case(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}}), QosClass::Burstable)]
    #[case(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}), QosClass::Guaranteed)]
    fn knows_the_class(#[case] resources: serde_json::Value, #[case] class: QosClass) {
        assert_eq!(qos_class(&pod(json!({"containers": [{"name": "c", "resources": resources}]}))), class);
    }

    #[test]
    fn one_container_without_limits_is_burstable() {
        let limited = json!({"limits": {"cpu": "1", "memory": "1"}, "requests": {"cpu": "1", "memory": "1"}});
        let containers = json!([{"name": "a", "resources": limited}, {"name": "b"}]);
        assert_eq!(qos_class(&pod(json!({"containers": containers}))), QosClass::Burstable);
        let init = json!({"containers": [{"name": "a", "resources": limited}], "initContainers": [{"name": "i"}]});
        assert_eq!(qos_class(&pod(init)).as_str(), "Burstable");
    }

    #[rstest]
    #[case::unknown(json!({}), false)]
    #[case::running(json!({"status": {"phase": "Running"}}), false)]
    #[case::succeeded(json!({"status": {"phase": "Succeeded"}}), true)]
    #[case::failed(json!({"status": {"phase": "Failed"}}), true)]
    #[case::being_deleted(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Running"}}), true)]
    fn knows_when_a_pod_is_over(#[case] pod: serde_json::Value, #[case] over: bool) {
        assert_eq!(is_over(&serde_json::from_value(pod).unwrap()), over);
    }

    #[test]
    fn refers_to_pods_and_containers() {
        let pod = pod(json!({
            "containers": [{"name": "c"}], "initContainers": [{"name": "i"}], "ephemeralContainers": [{"name": "e"}],
        }));
        let about = pod_ref(&pod);
        assert_eq!((about.kind.as_deref(), about.resource_version.as_deref()), (Some("Pod"), Some("7")));
        let path = |name| container_ref(&pod, name).and_then(|about| about.field_path);
        assert_eq!(path("c").as_deref(), Some("spec.containers{c}"));
        assert_eq!(path("i").as_deref(), Some("spec.initContainers{i}"));
        assert_eq!(path("e").as_deref(), Some("spec.ephemeralContainers{e}"));
        assert_eq!(path("x"), None);
    }

    #[test]
    fn finds_image_volumes_only() {
        let pod =
            pod(json!({"containers": [], "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "image": {}}]}));
        assert_eq!(image_volumes(&pod).map(|(volume, _)| volume.name.as_str()).collect::<Vec<_>>(), ["b"]);
    }
}
