//! What a pod's status says about its image volumes, in the words of a table's columns.

use std::collections::BTreeSet;

use imagevol_api::corev1::{ContainerStatus, Pod, PodCondition, Volume};

/// True once all image volumes of a pod are mounted; its reason says what is going on while it is not.
const VOLUMES_MOUNTED: &str = "imagevol.dev/VolumesMounted";
/// Waiting reasons that say nothing (kubernetes, pkg/kubelet/kubelet_pods.go, the defaults of `convertToAPIContainerStatuses`).
const IDLE_REASONS: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// How many of a pod's image volumes are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mounted {
    /// Known to be mounted.
    pub mounted: usize,
    /// In the spec.
    pub wanted: usize,
}

/// The image volumes of the spec.
pub(crate) fn image_volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).filter(|volume| volume.image.is_some())
}

/// The references of the spec's image volumes.
pub(crate) fn references(pod: &Pod) -> Vec<&str> {
    let images = image_volumes(pod).filter_map(|volume| volume.image.as_ref());
    images.filter_map(|image| image.reference.as_deref()).collect()
}

/// Counts mounted volumes: all where the condition holds; else those whose image a container's status names. A volume that no
/// container mounts is in no status, so that it counts only once all are mounted.
pub(crate) fn mounted(pod: &Pod) -> Mounted {
    let wanted = image_volumes(pod).count();
    if all_mounted(pod) {
        return Mounted { mounted: wanted, wanted };
    }
    let seen: BTreeSet<&str> = container_statuses(pod).flat_map(mounted_names).collect();
    let mounted = image_volumes(pod).filter(|volume| seen.contains(volume.name.as_str())).count();
    Mounted { mounted, wanted }
}

/// The STATUS column.
pub(crate) fn status(pod: &Pod) -> &str {
    if is_failed(pod) {
        return "Failed";
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return "Terminating";
    }
    if all_mounted(pod) {
        return "Mounted";
    }
    if let Some(reason) = container_statuses(pod).find_map(waiting_reason) {
        return reason;
    }
    let reason = condition(pod).and_then(|condition| condition.reason.as_deref()).filter(|reason| !reason.is_empty());
    reason.unwrap_or("Pending")
}

/// Whether the pod was given up.
pub(crate) fn is_failed(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Failed")
}

/// Whether all image volumes are mounted.
pub(crate) fn all_mounted(pod: &Pod) -> bool {
    condition(pod).is_some_and(|condition| condition.status == "True")
}

/// `: reason: message` of the pod's status, as far as they are set.
pub(crate) fn why_failed(pod: &Pod) -> String {
    let Some(status) = &pod.status else { return String::new() };
    let parts = [&status.reason, &status.message];
    parts
        .into_iter()
        .flatten()
        .filter(|part| !part.is_empty())
        .map(|part| format!(": {part}"))
        .collect::<Vec<_>>()
        .concat()
}

fn condition(pod: &Pod) -> Option<&PodCondition> {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.find(|condition| condition.type_ == VOLUMES_MOUNTED)
}

fn container_statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    pod.status.iter().flat_map(|status| {
        let kinds = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
        kinds.into_iter().flatten().flatten()
    })
}

fn mounted_names(status: &ContainerStatus) -> impl Iterator<Item = &str> {
    let mounts = status.volume_mounts.iter().flatten();
    let with_image = mounts.filter(|mount| {
        let image = mount.volume_status.as_ref().and_then(|volume| volume.image.as_ref());
        image.is_some_and(|image| !image.image_ref.is_empty())
    });
    with_image.map(|mount| mount.name.as_str())
}

fn waiting_reason(status: &ContainerStatus) -> Option<&str> {
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    waiting.reason.as_deref().filter(|reason| !reason.is_empty() && !IDLE_REASONS.contains(reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn pod(status: &Value) -> Pod {
        let volumes = json!([
            {"name": "a", "image": {"reference": "quay.io/a:1"}}, {"name": "b", "image": {"reference": "quay.io/b:1"}},
            {"name": "c", "emptyDir": {}},
        ]);
        serde_json::from_value(
            json!({"metadata": {"name": "x"}, "spec": {"containers": [], "volumes": volumes}, "status": status}),
        )
        .unwrap()
    }

    fn waiting(reason: &str) -> Value {
        json!({"name": "s", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": {"reason": reason}}})
    }

    fn condition(status: &str, reason: &str) -> Value {
        json!([{"type": "imagevol.dev/VolumesMounted", "status": status, "reason": reason}])
    }

    #[rstest]
    #[case(json!({}), "Pending")]
    #[case(json!({"phase": "Failed", "conditions": condition("True", "")}), "Failed")]
    #[case(json!({"phase": "Pending", "conditions": condition("True", "")}), "Mounted")]
    #[case(json!({"conditions": condition("False", "Pulling"), "containerStatuses": [waiting("ContainerCreating")]}), "Pulling")]
    #[case(json!({"conditions": condition("False", "Pulling"), "containerStatuses": [waiting("ErrImagePull")]}), "ErrImagePull")]
    #[case(json!({"initContainerStatuses": [waiting("ImagePullBackOff")]}), "ImagePullBackOff")]
    #[case(json!({"containerStatuses": [waiting("PodInitializing"), waiting("CreateContainerError")]}), "CreateContainerError")]
    fn statuses(#[case] status: Value, #[case] expected: &str) {
        assert_eq!(super::status(&pod(&status)), expected);
    }

    #[test]
    fn counts_each_volume_once_and_only_with_its_image() {
        let mount = |name: &str, image: Value| json!({"name": name, "mountPath": "/v", "volumeStatus": image});
        let mut status = waiting("ContainerCreating");
        status["volumeMounts"] = json!([
            mount("a", json!({"image": {"imageRef": "sha256:1"}})),
            mount("b", json!({})),
            mount("c", json!({}))
        ]);
        let pod = pod(&json!({"containerStatuses": [status.clone(), status]}));
        assert_eq!(mounted(&pod), Mounted { mounted: 1, wanted: 2 });
    }

    #[test]
    fn the_condition_speaks_for_volumes_that_no_container_mounts() {
        let pod = pod(&json!({"conditions": condition("True", "")}));
        assert_eq!(mounted(&pod), Mounted { mounted: 2, wanted: 2 });
    }

    #[test]
    fn says_why_a_pod_failed() {
        let pod = pod(&json!({"phase": "Failed", "reason": "ErrImagePull", "message": "not found"}));
        assert_eq!(why_failed(&pod), ": ErrImagePull: not found");
    }
}
