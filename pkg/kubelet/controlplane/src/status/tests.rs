use std::time::Duration;

use imagevol_api::config::{PULL_FAILURE_POLICY_ANNOTATION, PullFailurePolicy};
use imagevol_api::corev1::ContainerStatus;
use imagevol_base::volumes::{FailureCause, Outlook, VolumeFailure};
use jiff::SignedDuration;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;

mod oracle;

const DIGEST: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
const FAIL: PullFailure = PullFailure { policy: PullFailurePolicy::Fail, deadline: Duration::from_mins(5) };
const RETRY: PullFailure = PullFailure { policy: PullFailurePolicy::Retry, deadline: Duration::from_mins(5) };

fn pod(spec: &Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec})).unwrap()
}

/// Two image volumes, mounted by one container in the order second, first; another container mounts neither.
fn two_volumes() -> Pod {
    pod(&json!({
        "volumes": [
            {"name": "first", "image": {"reference": "r/first:1"}},
            {"name": "second", "image": {"reference": "r/second:1"}},
            {"name": "scratch", "emptyDir": {}},
        ],
        "containers": [
            {"name": "a", "image": "debian", "volumeMounts": [
                {"name": "second", "mountPath": "/second"},
                {"name": "first", "mountPath": "/first", "readOnly": true},
                {"name": "scratch", "mountPath": "/scratch"},
            ]},
            {"name": "b", "image": "debian"},
        ],
    }))
}

fn mounted() -> VolumeState {
    VolumeState::Mounted { image: DIGEST.parse().unwrap() }
}

fn failed(reason: &'static str, outlook: Outlook) -> VolumeState {
    VolumeState::Failed(VolumeFailure {
        reason,
        message: format!("because of {reason}"),
        outlook,
        cause: FailureCause::NotFound,
    })
}

fn sub_path_error(reason: &'static str, message: &str) -> SubPathError {
    SubPathError { reason, message: message.to_owned() }
}

fn report<'a>(states: impl IntoIterator<Item = (&'a str, VolumeState)>) -> PodVolumeReport {
    let volumes = states.into_iter().map(|(name, state)| (name.parse().unwrap(), state)).collect();
    PodVolumeReport { volumes, ..PodVolumeReport::default() }
}

fn now() -> Now {
    Now { wall: Timestamp::from_second(1_700_000_000).unwrap(), instant: Instant::now() }
}

fn later(now: Now, seconds: u64) -> Now {
    let wall = now.wall + SignedDuration::from_secs(i64::try_from(seconds).unwrap());
    Now { wall, instant: now.instant + Duration::from_secs(seconds) }
}

fn status(pod: &Pod, report: &PodVolumeReport, pull_failure: PullFailure) -> PodStatus {
    pod_status(StatusInput { pod, report, now: now(), pull_failure, previous: None })
}

fn condition<'a>(status: &'a PodStatus, type_: &str) -> (&'a str, Option<&'a str>, Option<&'a str>) {
    let condition = status.conditions.iter().flatten().find(|condition| condition.type_ == type_).unwrap();
    (&condition.status, condition.reason.as_deref(), condition.message.as_deref())
}

fn waiting(containers: Option<&Vec<ContainerStatus>>) -> Vec<(&str, &str, Option<&str>)> {
    let mut all = Vec::new();
    for container in containers.into_iter().flatten() {
        let waiting = container.state.as_ref().unwrap().waiting.as_ref().unwrap();
        all.push((container.name.as_str(), waiting.reason.as_deref().unwrap(), waiting.message.as_deref()));
    }
    all
}

#[test]
fn a_pod_whose_volumes_are_mounted_waits_for_a_runtime() {
    let status = status(&two_volumes(), &report([("first", mounted()), ("second", mounted())]), FAIL);
    assert_eq!(
        serde_json::to_value(&status).unwrap(),
        json!({
            "phase": "Pending",
            "qosClass": "BestEffort",
            "startTime": "2023-11-14T22:13:20Z",
            "conditions": [
                {"type": "PodReadyToStartContainers", "status": "True", "lastTransitionTime": "2023-11-14T22:13:20Z"},
                {"type": "Initialized", "status": "True", "lastTransitionTime": "2023-11-14T22:13:20Z"},
                {"type": "Ready", "status": "False", "lastTransitionTime": "2023-11-14T22:13:20Z",
                 "reason": "ContainersNotReady", "message": "containers with unready status: [a b]"},
                {"type": "ContainersReady", "status": "False", "lastTransitionTime": "2023-11-14T22:13:20Z",
                 "reason": "ContainersNotReady", "message": "containers with unready status: [a b]"},
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2023-11-14T22:13:20Z"},
                {"type": "imagevol.dev/VolumesMounted", "status": "True", "lastTransitionTime": "2023-11-14T22:13:20Z"},
            ],
            "containerStatuses": [
                {"name": "a", "image": "debian", "imageID": "", "ready": false, "restartCount": 0, "started": false,
                 "lastState": {}, "state": {"waiting": {"reason": "ContainerCreating"}},
                 "volumeMounts": [
                    {"name": "second", "mountPath": "/second", "volumeStatus": {"image": {"imageRef": DIGEST}}},
                    {"name": "first", "mountPath": "/first", "readOnly": true, "recursiveReadOnly": "Disabled",
                     "volumeStatus": {"image": {"imageRef": DIGEST}}},
                    {"name": "scratch", "mountPath": "/scratch"},
                 ]},
                {"name": "b", "image": "debian", "imageID": "", "ready": false, "restartCount": 0, "started": false,
                 "lastState": {}, "state": {"waiting": {"reason": "ContainerCreating"}}},
            ],
        })
    );
}

#[rstest]
#[case::nothing_known(report([]), ("False", Some("Waiting"), Some("volumes waiting: [first second]")))]
#[case::one_pulling(
    report([("first", mounted()), ("second", VolumeState::Pulling)]),
    ("False", Some("Pulling"), Some("images of volumes being pulled: [second]"))
)]
#[case::pulling_before_waiting(
    report([("first", VolumeState::Waiting), ("second", VolumeState::Pulling)]),
    ("False", Some("Pulling"), Some("images of volumes being pulled: [second]"))
)]
#[case::failed_before_pulling(
    report([("first", VolumeState::Pulling), ("second", failed("ErrImagePull", Outlook::Final))]),
    ("False", Some("ErrImagePull"), Some("volume \"second\": because of ErrImagePull"))
)]
#[case::all_failures_are_named(
    report([("first", failed("ErrImageNeverPull", Outlook::Final)), ("second", failed("ErrImagePull", Outlook::Final))]),
    ("False", Some("ErrImageNeverPull"),
     Some("volume \"first\": because of ErrImageNeverPull; volume \"second\": because of ErrImagePull"))
)]
fn the_condition_says_what_the_volumes_wait_for(
    #[case] report: PodVolumeReport,
    #[case] expected: (&str, Option<&str>, Option<&str>),
) {
    let status = status(&two_volumes(), &report, RETRY);
    assert_eq!(condition(&status, VOLUMES_MOUNTED), expected);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
}

#[rstest]
#[case::pulling(report([("first", VolumeState::Pulling)]), ("ContainerCreating", None))]
#[case::one_failed(
    report([("second", failed("ErrImagePull", Outlook::Final)), ("first", mounted())]),
    ("ErrImagePull", Some("because of ErrImagePull"))
)]
#[case::the_last_failing_mount_wins(
    report([("second", failed("ErrImagePull", Outlook::Final)), ("first", failed("InvalidImageName", Outlook::Final))]),
    ("InvalidImageName", Some("because of InvalidImageName"))
)]
fn only_containers_that_mount_a_failed_volume_say_so(
    #[case] report: PodVolumeReport,
    #[case] (reason, message): (&str, Option<&str>),
) {
    let status = status(&two_volumes(), &report, RETRY);
    let expected = [("a", reason, message), ("b", "ContainerCreating", None)];
    assert_eq!(waiting(status.container_statuses.as_ref()), expected);
}

#[rstest]
#[case::the_image_lacks_it(mounted(), "CreateContainerError", "CreateContainerError", "no such directory")]
#[case::the_pod_is_at_fault(mounted(), "CreateContainerConfigError", "CreateContainerConfigError", "no such directory")]
#[case::image_first(
    failed("ErrImagePull", Outlook::Final),
    "CreateContainerError",
    "ErrImagePull",
    "because of ErrImagePull"
)]
fn a_bad_sub_path_is_a_container_error(
    #[case] first: VolumeState,
    #[case] sub_path: &'static str,
    #[case] reason: &str,
    #[case] message: &str,
) {
    let mut report = report([("first", first), ("second", mounted())]);
    report.sub_path_errors.insert(("a".parse().unwrap(), 1), sub_path_error(sub_path, "no such directory"));
    report.sub_path_errors.insert(("a".parse().unwrap(), 2), sub_path_error("CreateContainerError", "a later one"));
    let status = status(&two_volumes(), &report, RETRY);
    assert_eq!(waiting(status.container_statuses.as_ref())[0], ("a", reason, Some(message)));
    assert_eq!(condition(&status, VOLUMES_MOUNTED).1, Some(reason));
}

#[test]
fn a_bad_sub_path_fails_no_pod() {
    let mut report = report([("first", mounted()), ("second", mounted())]);
    report.sub_path_errors.insert(("b".parse().unwrap(), 0), sub_path_error("CreateContainerError", "text"));
    let status = status(&two_volumes(), &report, FAIL);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(
        condition(&status, VOLUMES_MOUNTED),
        ("False", Some("CreateContainerError"), Some("container \"b\": text"))
    );
}

#[test]
fn init_containers_come_first() {
    let pod = pod(&json!({
        "volumes": [{"name": "v", "image": {"reference": "r:1"}}],
        "initContainers": [
            {"name": "init", "volumeMounts": [{"name": "v", "mountPath": "/v"}]},
            {"name": "sidecar", "restartPolicy": "Always"},
        ],
        "containers": [{"name": "a"}],
    }));
    let status = status(&pod, &report([("v", failed("ErrImagePull", Outlook::Final))]), RETRY);
    assert_eq!(
        waiting(status.init_container_statuses.as_ref()),
        [("init", "ErrImagePull", Some("because of ErrImagePull")), ("sidecar", "PodInitializing", None)]
    );
    assert_eq!(waiting(status.container_statuses.as_ref()), [("a", "PodInitializing", None)]);
    let incomplete = Some("containers with incomplete status: [init sidecar]");
    assert_eq!(condition(&status, "Initialized"), ("False", Some("ContainersNotInitialized"), incomplete));
    let unready = Some("containers with unready status: [sidecar a]");
    assert_eq!(condition(&status, "Ready"), ("False", Some("ContainersNotReady"), unready));
}

#[test]
fn a_pod_without_image_volumes_has_them_all() {
    let pod = pod(&json!({"containers": [{"name": "a"}]}));
    assert_eq!(condition(&status(&pod, &report([]), FAIL), VOLUMES_MOUNTED), ("True", None, None));
}

#[rstest]
#[case::final_error(FAIL, None, Outlook::Final, true)]
#[case::final_error_retried(RETRY, None, Outlook::Final, false)]
#[case::the_pod_says_retry(FAIL, Some("Retry"), Outlook::Final, false)]
#[case::the_pod_says_fail(RETRY, Some("Fail"), Outlook::Final, true)]
#[case::passing(FAIL, None, Outlook::Passing { failing_since: Instant::now() }, false)]
fn the_policy_decides_whether_a_pod_fails(
    #[case] pull_failure: PullFailure,
    #[case] annotation: Option<&str>,
    #[case] outlook: Outlook,
    #[case] fails: bool,
) {
    let mut pod = two_volumes();
    pod.metadata.annotations =
        annotation.map(|policy| [(PULL_FAILURE_POLICY_ANNOTATION.to_owned(), policy.to_owned())].into());
    let report = report([("first", mounted()), ("second", failed("ErrImagePull", outlook))]);
    assert_eq!(is_failed(&status(&pod, &report, pull_failure)), fails);
}

#[test]
fn a_failed_pod_says_which_volume_and_why() {
    let report = report([("first", mounted()), ("second", failed("ErrImagePull", Outlook::Final))]);
    let status = status(&two_volumes(), &report, FAIL);
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    assert_eq!(status.reason.as_deref(), Some("ErrImagePull"));
    assert_eq!(status.message.as_deref(), Some("volume \"second\": because of ErrImagePull"));
    assert_eq!(condition(&status, "Ready"), ("False", Some("PodFailed"), None));
    assert_eq!(condition(&status, "PodReadyToStartContainers"), ("False", None, None));
    assert_eq!(waiting(status.container_statuses.as_ref())[0].1, "ErrImagePull");
}

#[rstest]
#[case::just_before(299, false)]
#[case::at_the_deadline(300, true)]
fn a_passing_error_fails_the_pod_at_the_deadline(#[case] seconds: u64, #[case] fails: bool) {
    let (pod, start) = (two_volumes(), now());
    let outlook = Outlook::Passing { failing_since: start.instant };
    let report = report([("first", VolumeState::Pulling), ("second", failed("ImagePullBackOff", outlook))]);
    assert_eq!(FAIL.due(&pod, &report), Some(start.instant + Duration::from_mins(5)));
    assert_eq!(RETRY.due(&pod, &report), None);
    let now = later(start, seconds);
    let status = pod_status(StatusInput { pod: &pod, report: &report, now, pull_failure: FAIL, previous: None });
    assert_eq!(is_failed(&status), fails);
    let message = "volume \"second\": because of ImagePullBackOff (gave up after 5m0s without progress)";
    assert_eq!(status.message.as_deref(), fails.then_some(message));
}

#[test]
fn a_failed_pod_stays_failed() {
    let pod = two_volumes();
    let failed = status(&pod, &report([("first", failed("ErrImagePull", Outlook::Final))]), FAIL);
    let report = report([("first", mounted()), ("second", mounted())]);
    let input =
        StatusInput { pod: &pod, report: &report, now: later(now(), 9), pull_failure: RETRY, previous: Some(&failed) };
    assert_eq!(pod_status(input), failed);
}

#[test]
fn times_change_with_the_condition_only() {
    let (pod, start) = (two_volumes(), now());
    let step = |report: &PodVolumeReport, seconds, previous: Option<&PodStatus>| {
        let now = later(start, seconds);
        pod_status(StatusInput { pod: &pod, report, now, pull_failure: RETRY, previous })
    };
    let since = |status: &PodStatus, type_: &str| {
        let condition = status.conditions.iter().flatten().find(|condition| condition.type_ == type_).unwrap();
        condition.last_transition_time.as_ref().unwrap().0.duration_since(start.wall).as_secs()
    };
    let first = step(&report([]), 0, None);
    let second = step(&report([("first", failed("ErrImagePull", Outlook::Final))]), 10, Some(&first));
    assert_eq!((since(&second, VOLUMES_MOUNTED), condition(&second, VOLUMES_MOUNTED).1), (0, Some("ErrImagePull")));
    let third = step(&report([("first", mounted()), ("second", mounted())]), 20, Some(&second));
    assert_eq!((since(&third, VOLUMES_MOUNTED), since(&third, "Ready")), (20, 0));
    assert_eq!(third.start_time, first.start_time);
}

#[test]
fn a_hostile_cause_stays_on_one_line() {
    let failure = VolumeFailure {
        reason: "ErrImagePull",
        message: "a\nb\u{1b}[2J".into(),
        outlook: Outlook::Final,
        cause: FailureCause::NotFound,
    };
    let status = status(&two_volumes(), &report([("first", VolumeState::Failed(failure))]), FAIL);
    let text = serde_json::to_string(&status).unwrap();
    assert!(text.contains(r"a\\nb\\u{1b}[2J"), "{text}");
}

#[test]
fn a_thousand_volumes_are_no_work() {
    let names: Vec<_> = (0..1000).map(|i| format!("v{i}")).collect();
    let volumes: Vec<_> = names.iter().map(|name| json!({"name": name, "image": {"reference": "r:1"}})).collect();
    let mounts: Vec<_> = names.iter().map(|name| json!({"name": name, "mountPath": format!("/{name}")})).collect();
    let pod = pod(&json!({"volumes": volumes, "containers": [{"name": "a", "volumeMounts": mounts}]}));
    let report = report(names.iter().map(|name| (name.as_str(), mounted())));
    assert_eq!(condition(&status(&pod, &report, FAIL), VOLUMES_MOUNTED).0, "True");
}
