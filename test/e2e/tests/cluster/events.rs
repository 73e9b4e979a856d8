//! What `kubectl describe pod` tells, beside what it tells of the container runtime's own image volume in the same cluster.
//!
//! The expected texts are the kubelet's of Kubernetes 1.36, as recorded.

use std::collections::BTreeSet;

use imagevol_test_e2e::manifests::{csi, csi_with, native, pod};
use imagevol_test_e2e::{Cluster, Event, Namespace, SOON, Told, images, until};
use serde_json::json;

/// The container of the tests' pods, as events name it.
const SHELL: &str = "spec.containers{shell}";

fn event(kind: &str, reason: &str, field_path: &str, message: &str) -> Told {
    (kind.into(), reason.into(), field_path.into(), message.into())
}

fn pulling(image: &str) -> Told {
    event("Normal", "Pulling", "", &format!("Pulling image \"{image}\""))
}

fn pulled(image: &str) -> Told {
    event("Normal", "Pulled", "", &format!("Successfully pulled image \"{image}\" in ..."))
}

fn present(image: &str, field_path: &str) -> Told {
    let text = format!("Container image \"{image}\" already present on machine and can be accessed by the pod");
    event("Normal", "Pulled", field_path, &text)
}

/// What is told of the container itself.
fn started(cluster: &Cluster) -> [Told; 3] {
    [
        present(&cluster.busybox(), SHELL),
        event("Normal", "Created", SHELL, "Container created"),
        event("Normal", "Started", SHELL, "Container started"),
    ]
}

fn failed(image: &str) -> [Told; 5] {
    [
        pulling(image),
        event("Warning", "Failed", "", &format!("Failed to pull image \"{image}\": ...")),
        event("Warning", "Failed", SHELL, "Error: ErrImagePull"),
        event("Normal", "BackOff", "", &format!("Back-off pulling image \"{image}\"")),
        event("Warning", "Failed", SHELL, "Error: ImagePullBackOff"),
    ]
}

fn never(image: &str) -> [Told; 2] {
    let text = format!("Container image \"{image}\" is not present with pull policy of Never");
    [event("Warning", "ErrImageNeverPull", "", &text), event("Warning", "Failed", SHELL, "Error: ErrImageNeverPull")]
}

fn invalid(image: &str) -> [Told; 2] {
    let text = format!(
        "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": invalid reference format: repository name (UPPER) must be lowercase"
    );
    [event("Warning", "InspectFailed", "", &text), event("Warning", "Failed", SHELL, "Error: InvalidImageName")]
}

/// Scheduling is none of ours; that a mount failed is what the kubelet adds for every volume that is a driver's.
fn story(namespace: &Namespace, pod: &str) -> Vec<Event> {
    let foreign = |event: &Event| matches!(event.reason.as_str(), "Scheduled" | "FailedMount");
    namespace.events(pod).into_iter().filter(|event| !foreign(event)).collect()
}

/// Waits until a pod's events are these, each text as a set.
fn await_story(namespace: &Namespace, pod: &str, expected: &[Told]) {
    let expected: BTreeSet<_> = expected.iter().cloned().collect();
    until(&format!("the events of {pod}"), SOON, || {
        let told: BTreeSet<_> = story(namespace, pod).iter().map(Event::told).collect();
        if told == expected { Ok(()) } else { Err((told, expected.clone())) }
    });
}

/// However often the kubelet asks, a back-off is told once until the next pull: a pod may have few events.
fn assert_told_once_a_window(namespace: &Namespace, pod: &str) {
    let story = story(namespace, pod);
    let count =
        |text: &str| story.iter().filter(|event| event.message.starts_with(text)).map(|event| event.count).sum::<u64>();
    let pulls = count("Pulling image ");
    assert!(count("Back-off pulling image ") <= pulls && count("Error: ImagePullBackOff") <= pulls, "{story:#?}");
}

/// The lines that `kubectl describe pod` ends with, without their ages: type, reason, who, text.
fn described(namespace: &Namespace, pod: &str) -> Vec<String> {
    let text = namespace.must(&["describe", "pod", pod]);
    let (_, events) = text.split_once("\nEvents:").unwrap();
    events.lines().skip(3).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn a_pull_is_told_as_natively_and_each_step_once() {
    let Some(cluster) = Cluster::find("a_pull_is_told_as_natively") else { return };
    let namespace = cluster.namespace("told");
    let image = images::push(cluster.registry(), namespace.name(), "v1", &images::site("told"));
    namespace.run(&pod(&cluster, "ours", &[csi("site", &image)]));
    namespace.run(&pod(&cluster, "native", &[native("site", &image)]));
    let told = [&[pulling(&image), pulled(&image)][..], &started(&cluster)].concat();
    await_story(&namespace, "ours", &told);
    assert!(story(&namespace, "ours").iter().all(|event| event.count == 1), "{:#?}", story(&namespace, "ours"));
    // The kubelet looks at the image again with each sync of the pod, and tells each time.
    await_story(&namespace, "native", &[&told[..], &[present(&image, "")]].concat());
    let lines = described(&namespace, "ours");
    for (who, text) in [
        ("imagevol", format!("Pulling image \"{image}\"")),
        ("imagevol", format!("Successfully pulled image \"{image}\"")),
    ] {
        assert!(lines.iter().any(|line| line.contains(&format!(" {who} {text}"))), "{lines:#?}");
    }
}

#[test]
fn an_image_that_is_present_is_told_as_natively_and_once() {
    let Some(cluster) = Cluster::find("an_image_that_is_present_is_told") else { return };
    let namespace = cluster.namespace("present");
    let image = images::push(cluster.registry(), namespace.name(), "v1", &images::site("present"));
    for (name, volume) in [("ours", csi("site", &image)), ("native", native("site", &image))] {
        namespace.run(&pod(&cluster, &format!("{name}-first"), std::slice::from_ref(&volume)));
        namespace.run(&pod(&cluster, name, &[volume]));
        await_story(&namespace, name, &[&[present(&image, "")][..], &started(&cluster)].concat());
    }
    assert!(story(&namespace, "ours").iter().all(|event| event.count == 1), "{:#?}", story(&namespace, "ours"));
}

#[test]
fn failures_are_told_as_natively() {
    let Some(cluster) = Cluster::find("failures_are_told_as_natively") else { return };
    let namespace = cluster.namespace("failures");
    let absent = format!("{}/{}:absent", cluster.registry(), namespace.name());
    let unknown = format!("{}/busybox:no-such-tag", cluster.registry());
    let denied = format!("{}/e2e/denied:v1", cluster.private_registry());
    // Nobody listens on port 1.
    let down = "127.0.0.1:1/data:v1".to_owned();
    let upper = format!("{}/UPPER:1", cluster.registry());
    let policy_never = json!({ "reference": absent, "pullPolicy": "Never" });
    let mut native_never = native("site", &absent);
    native_never["image"]["pullPolicy"] = json!("Never");
    namespace.apply(&pod(&cluster, "never-ours", &[csi_with("site", &policy_never)]));
    namespace.apply(&pod(&cluster, "never-native", &[native_never]));
    for (name, image) in [("unknown", &unknown), ("denied", &denied), ("down", &down), ("upper", &upper)] {
        namespace.apply(&pod(&cluster, &format!("{name}-ours"), &[csi("site", image)]));
        namespace.apply(&pod(&cluster, &format!("{name}-native"), &[native("site", image)]));
    }
    for who in ["native", "ours"] {
        await_story(&namespace, &format!("never-{who}"), &never(&absent));
        await_story(&namespace, &format!("upper-{who}"), &invalid(&upper));
        for (name, image) in [("unknown", &unknown), ("denied", &denied), ("down", &down)] {
            await_story(&namespace, &format!("{name}-{who}"), &failed(image));
        }
    }
    for pod in ["unknown-ours", "denied-ours", "down-ours"] {
        assert_told_once_a_window(&namespace, pod);
    }
    let lines = described(&namespace, "unknown-ours");
    let failed = format!(" imagevol Failed to pull image \"{unknown}\": registry {}: ", cluster.registry());
    assert!(lines.iter().any(|line| line.contains(&failed) && line.contains("404 Not Found")), "{lines:#?}");
}

/// The kubelet's own event says it as well, in a volume's words.
#[test]
fn what_a_volume_must_not_say_is_explained() {
    let Some(cluster) = Cluster::find("what_a_volume_must_not_say_is_explained") else { return };
    let namespace = cluster.namespace("attributes");
    let image = cluster.busybox();
    let mut writable = csi("site", &image);
    writable["csi"]["readOnly"] = json!(false);
    let upper = format!("{}/UPPER:1", cluster.registry());
    let cases = [
        ("writable", writable, "readOnly: true is required"),
        ("unknown", csi_with("site", &json!({ "reference": image, "pullpolicy": "Always" })), "pullpolicy"),
        ("policy", csi_with("site", &json!({ "reference": image, "pullPolicy": "Sometimes" })), "Sometimes"),
        ("absent", csi_with("site", &json!({})), "reference"),
        ("upper", csi("site", &upper), "invalid reference format: repository name (UPPER) must be lowercase"),
    ];
    for (name, volume, _) in &cases {
        namespace.apply(&pod(&cluster, name, std::slice::from_ref(volume)));
    }
    for (name, _, text) in &cases {
        let event = namespace.await_event(name, "FailedMount", text);
        assert!(event.message.contains("code = InvalidArgument"), "{event:#?}");
    }
}
