//! When an image is pulled.

use imagevol_test_e2e::manifests::{csi_with, pod};
use imagevol_test_e2e::{Cluster, Event, Namespace, images};
use serde_json::{Value, json};

fn volume(reference: &str, policy: &str) -> Value {
    csi_with("site", &json!({ "reference": reference, "pullPolicy": policy }))
}

/// What a pod's events say of an image volume, with their counts.
fn said(namespace: &Namespace, pod: &str) -> Vec<(String, String, u64)> {
    let about_volume = |event: &Event| event.component == "imagevol" && event.field_path.is_empty();
    let events = namespace.events(pod).into_iter().filter(about_volume);
    events.map(|event| (event.reason.clone(), event.told().3, event.count)).collect()
}

fn pulled(reference: &str) -> Vec<(String, String, u64)> {
    let pulled = format!("Successfully pulled image \"{reference}\" in ...");
    vec![("Pulling".into(), format!("Pulling image \"{reference}\""), 1), ("Pulled".into(), pulled, 1)]
}

fn present(reference: &str) -> Vec<(String, String, u64)> {
    let text = format!("Container image \"{reference}\" already present on machine and can be accessed by the pod");
    vec![("Pulled".into(), text, 1)]
}

#[test]
fn if_not_present_pulls_once() {
    let Some(cluster) = Cluster::find("if_not_present_pulls_once") else { return };
    let namespace = cluster.namespace("ifnotpresent");
    let reference = images::push(cluster.registry(), namespace.name(), "v1", &images::site("first"));
    namespace.run(&pod(&cluster, "first", &[volume(&reference, "IfNotPresent")]));
    namespace.await_event("first", "Pulled", "Successfully");
    // The tag points to another image, which nobody asks for.
    images::push(cluster.registry(), namespace.name(), "v1", &images::site("second"));
    namespace.run(&pod(&cluster, "second", &[volume(&reference, "IfNotPresent")]));
    namespace.await_event("second", "Pulled", "already present");
    assert_eq!(namespace.read("second", "/site/index.html"), "first");
    assert_eq!(said(&namespace, "first"), pulled(&reference));
    assert_eq!(said(&namespace, "second"), present(&reference));
}

#[test]
fn always_asks_for_each_pod_and_never_changes_one_that_runs() {
    let Some(cluster) = Cluster::find("always_asks_for_each_pod") else { return };
    let namespace = cluster.namespace("always");
    let reference = images::push(cluster.registry(), namespace.name(), "v1", &images::site("first"));
    namespace.run(&pod(&cluster, "first", &[volume(&reference, "Always")]));
    images::push(cluster.registry(), namespace.name(), "v1", &images::site("second"));
    namespace.run(&pod(&cluster, "second", &[volume(&reference, "Always")]));
    let read = ["first", "second"].map(|pod| namespace.read(pod, "/site/index.html"));
    assert_eq!(read, ["first", "second"]);
    for pod in ["first", "second"] {
        namespace.await_event(pod, "Pulled", "Successfully");
        assert_eq!(said(&namespace, pod), pulled(&reference), "{pod}");
    }
}

/// As the kubelet defaults it: `Always` for `latest` and for no tag.
#[test]
fn without_a_policy_latest_is_always_pulled() {
    let Some(cluster) = Cluster::find("without_a_policy_latest_is_always_pulled") else { return };
    let namespace = cluster.namespace("latest");
    let reference = images::push(cluster.registry(), namespace.name(), "latest", &images::site("first"));
    let untagged = reference.trim_end_matches(":latest").to_owned();
    let volume = csi_with("site", &json!({ "reference": untagged }));
    for says in ["first", "second"] {
        images::push(cluster.registry(), namespace.name(), "latest", &images::site(says));
        namespace.run(&pod(&cluster, says, std::slice::from_ref(&volume)));
        assert_eq!(namespace.read(says, "/site/index.html"), says);
    }
}

#[test]
fn never_waits_until_somebody_else_brings_the_image() {
    let Some(cluster) = Cluster::find("never_waits") else { return };
    let namespace = cluster.namespace("never");
    let reference = images::push(cluster.registry(), namespace.name(), "v1", &images::site("never"));
    namespace.apply(&pod(&cluster, "web", &[volume(&reference, "Never")]));
    let text = format!("Container image \"{reference}\" is not present with pull policy of Never");
    namespace.await_event("web", "ErrImageNeverPull", &text);
    namespace.await_event("web", "Failed", "Error: ErrImageNeverPull");
    namespace.await_event("web", "FailedMount", &text);
    assert!(namespace.events("web").iter().all(|event| event.reason != "Pulling"));
    let driver = namespace.driver_of("web");
    let pull = ["pull", &reference];
    driver.ctl(&pull).must(&pull);
    namespace.await_ready("web");
    assert_eq!(namespace.read("web", "/site/index.html"), "never");
    namespace.await_event("web", "Pulled", "already present");
}
