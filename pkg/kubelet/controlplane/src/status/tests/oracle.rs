//! Against what a real kubelet reported for 24 pods (`testdata/events.json`), under `Retry`, its own policy.
//!
//! Differences on purpose: nobody here runs containers, so where the kubelet's container runs, ours waits with `ContainerCreating` and is
//! not ready; `volumeStatus` carries the digest, which no released runtime fills in; a sub path to a single file works here.

use super::*;

/// Refused by the recorded runtime, mounted by us.
const WORKS_HERE: [&str; 1] = ["subpath-file"];

fn cases() -> Vec<Value> {
    serde_json::from_str(include_str!("../../../testdata/events.json")).unwrap()
}

fn pod_of(case: &Value) -> Pod {
    let mut spec = case["spec"].clone();
    let mounts = spec.as_object_mut().unwrap().remove("volumeMounts").unwrap();
    spec["containers"] = json!([{"name": "shell", "image": "localhost:5000/bb:1", "volumeMounts": mounts}]);
    pod(&spec)
}

/// The reasons that the recorded pods wait with, as the static texts that a report carries.
fn reason(text: &str) -> &'static str {
    let known = ["ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"];
    known.into_iter().find(|reason| *reason == text).unwrap()
}

/// What the volume manager would say: the waiting reason is that of the volume, if there is one.
fn report_of(case: &Value, pod: &Pod) -> PodVolumeReport {
    let recorded = &case["containerStatuses"][0]["state"]["waiting"];
    let works = recorded.is_null() || WORKS_HERE.contains(&case["case"].as_str().unwrap());
    let state = || {
        if works {
            return mounted();
        }
        let (reason, message) = (reason(recorded["reason"].as_str().unwrap()), recorded["message"].as_str().unwrap());
        VolumeState::Failed(VolumeFailure {
            reason,
            message: message.to_owned(),
            outlook: Outlook::Final,
            cause: FailureCause::NotFound,
        })
    };
    report(pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).map(|volume| (volume.name.as_str(), state())))
}

fn without_digests(mut mounts: Value) -> Value {
    for mount in mounts.as_array_mut().into_iter().flatten() {
        mount.as_object_mut().unwrap().remove("volumeStatus");
    }
    mounts
}

#[test]
fn a_waiting_pod_looks_as_it_does_on_a_kubelet() {
    let mut compared = 0;
    for case in cases() {
        let name = case["case"].as_str().unwrap();
        let pod = pod_of(&case);
        let status = status(&pod, &report_of(&case, &pod), RETRY);
        let container = serde_json::to_value(&status.container_statuses.as_ref().unwrap()[0]).unwrap();
        let recorded = &case["containerStatuses"][0];
        assert_eq!(without_digests(container["volumeMounts"].clone()), recorded["volumeMounts"], "{name}");
        if case["phase"] == "Running" || WORKS_HERE.contains(&name) {
            assert_eq!(container["state"], json!({"waiting": {"reason": "ContainerCreating"}}), "{name}");
            assert_eq!(condition(&status, VOLUMES_MOUNTED).0, "True", "{name}");
            continue;
        }
        assert_eq!(status.phase.as_deref(), case["phase"].as_str(), "{name}");
        assert_eq!((&container["state"], &container["ready"]), (&recorded["state"], &recorded["ready"]), "{name}");
        for (type_, expected) in case["conditions"].as_object().unwrap() {
            let (status, reason, message) = condition(&status, type_);
            assert_eq!(&json!([status, reason, message]), expected, "{name}: {type_}");
        }
        compared += 1;
    }
    assert_eq!(compared, 12, "recorded pods that wait for a volume");
}
