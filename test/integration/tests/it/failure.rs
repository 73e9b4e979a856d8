//! `pullFailurePolicy: Fail`, the default: what fails a pod, when, and what starts it anew.

use imagevol_test_support::image::{ImageBuilder, LayerBuilder};
use imagevol_test_support::registry::{FakeRegistry, Fault};
use serde_json::Value;

use crate::lab::{Lab, image};
use crate::manifest::{Pod, documents, pod};

fn phase(lab: &Lab, name: &str) -> String {
    lab.pod(name)["status"]["phase"].as_str().unwrap().to_owned()
}

fn uid(lab: &Lab, name: &str) -> String {
    lab.pod(name)["metadata"]["uid"].as_str().unwrap().to_owned()
}

#[test]
fn final_errors_fail_a_pod_at_once() {
    let Some(lab) = Lab::started("final_errors", "") else { return };
    let registry = lab.registry();
    let private = lab.private_registry(&["data"]);
    private.push("data", "1", &image("name", "private"));
    let spoilt = ImageBuilder::new().layer(LayerBuilder::new().file("file", "1\n").plain()).build();
    registry.push("spoilt", "1", &spoilt);
    registry.faults().always(&format!("/spoilt/blobs/{}", spoilt.layers[0].digest), Fault::Corrupt(512));
    let (host, missing) = (registry.host(), format!("sha256:{}", "1".repeat(64)));
    let cases = [
        ("no-tag", format!("{host}/data:none"), "Always", "ErrImagePull", "404"),
        ("no-digest", format!("{host}/data@{missing}"), "IfNotPresent", "ErrImagePull", "404"),
        ("denied", private.reference("data", "1"), "IfNotPresent", "ErrImagePull", "401"),
        (
            "never",
            format!("{host}/data:none"),
            "Never",
            "ErrImageNeverPull",
            "is not present with pull policy of Never",
        ),
        ("bad-name", format!("{host}/UPPER:1"), "Always", "InvalidImageName", "must be lowercase"),
        ("spoilt", format!("{host}/spoilt:1"), "Always", "ErrImagePull", "digest"),
    ];
    let pods: Vec<Value> =
        cases.iter().map(|(name, reference, policy, ..)| pod(name, reference, policy).value()).collect();
    lab.daemon.apply(&documents(&pods));
    for (name, reference, _, reason, message) in &cases {
        lab.wait_failed(name);
        let status = lab.pod(name)["status"].clone();
        assert_eq!(status["reason"], *reason, "{name}: {status}");
        let said = status["message"].as_str().unwrap();
        assert!(said.starts_with("volume \"volume\": ") && said.contains(message), "{name}: {said}");
        assert!(name == &"spoilt" || said.contains(reference.split('/').next().unwrap()), "{name}: {said}");
        assert!(!lab.story(name).iter().any(|line| line.starts_with("BackOff")), "{:?}", lab.story(name));
        let waited = lab.daemon.ctl(["wait", "pod", name, "--for=mounted", "--timeout=60s"]);
        assert!(!waited.ok && waited.stderr.contains(reason), "{}", waited.stderr);
    }
    assert_eq!(lab.daemon.mounts(), [] as [&std::path::Path; 0]);
}

/// A pod that failed for want of a tag, which is there now.
fn failed_pod(lab: &Lab) -> (FakeRegistry, Pod) {
    let registry = lab.registry();
    let pod = pod("web", &registry.reference("data", "1"), "IfNotPresent");
    lab.daemon.apply(&pod.json());
    lab.wait_failed("web");
    registry.push("data", "1", &image("name", "content"));
    (registry, pod)
}

#[test]
fn a_failed_pod_stays_failed_until_somebody_says_otherwise() {
    let Some(mut lab) = Lab::started("stays_failed", "") else { return };
    let (registry, pod) = failed_pod(&lab);
    let failed_uid = uid(&lab, "web");
    lab.daemon.kill();
    lab.daemon.start();
    registry.clear_requests();
    lab.daemon.apply(&pod.json());
    lab.wait_failed("web");
    assert_eq!(registry.requests().len(), 0, "a failed pod asks nobody");
    assert_eq!(lab.daemon.must(["retry", "pod", "web"]), "pod/web retried\n");
    lab.daemon.wait_mounted("web");
    assert_eq!(uid(&lab, "web"), failed_uid);
    let well = lab.daemon.ctl(["retry", "pod", "web"]);
    assert_eq!(
        (well.code, well.stderr.as_str()),
        (Some(1), "Error from server (Conflict): pod \"web\" has not failed\n")
    );
    let absent = lab.daemon.ctl(["retry", "pod", "none"]);
    assert_eq!(
        (absent.code, absent.stderr.as_str()),
        (Some(1), "Error from server (NotFound): pods \"none\" not found\n")
    );
}

#[test]
fn deleted_and_applied_again_a_pod_starts_anew() {
    let Some(lab) = Lab::started("delete_and_apply", "") else { return };
    let (_registry, pod) = failed_pod(&lab);
    assert_eq!(lab.daemon.must(["delete", "pod", "web"]), "pod \"web\" deleted\n");
    lab.daemon.apply(&pod.json());
    lab.daemon.wait_mounted("web");
    assert_eq!(lab.read("web", "volume", "name"), "content");
}

#[test]
fn a_changed_manifest_is_another_pod() {
    let Some(lab) = Lab::started("changed_manifest", "") else { return };
    let (_registry, pod) = failed_pod(&lab);
    let before = uid(&lab, "web");
    lab.daemon.apply(&pod.annotate("example.com/changed", "yes").json());
    lab.daemon.wait_mounted("web");
    assert_ne!(uid(&lab, "web"), before);
}

#[test]
fn passing_errors_are_retried_until_the_deadline() {
    let Some(lab) = Lab::started("deadline", "pullDeadline: 2s") else { return };
    let registry = lab.registry();
    registry.faults().always("/v2/", Fault::status(503));
    let policy = |value: &str| ("imagevol.dev/pull-failure-policy", value.to_owned());
    let named = |name: &str| pod(name, &registry.reference("data", "1"), "IfNotPresent");
    let (key, retry) = policy("Retry");
    lab.daemon.apply(&documents(&[named("fails").value(), named("retries").annotate(key, &retry).value()]));
    lab.until_waiting("fails", "ImagePullBackOff");
    assert_eq!(phase(&lab, "fails"), "Pending");
    lab.wait_failed("fails");
    let status = lab.pod("fails")["status"].clone();
    assert_eq!(status["reason"], "ImagePullBackOff", "{status}");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("503") && message.contains("gave up after 2s"), "{message}");
    let story = lab.story("fails").join("\n");
    assert!(story.contains("BackOff: Back-off pulling image"), "{story}");
    assert_eq!(phase(&lab, "retries"), "Pending");
    assert_eq!(lab.waiting("retries").unwrap(), "ImagePullBackOff");
}

#[test]
fn a_pod_may_choose_to_fail_on_a_node_that_retries() {
    let Some(lab) = Lab::started("annotation", "pullFailurePolicy: Retry") else { return };
    let registry = lab.registry();
    let named = |name: &str| pod(name, &registry.reference("data", "none"), "IfNotPresent");
    let fails = named("fails").annotate("imagevol.dev/pull-failure-policy", "Fail");
    lab.daemon.apply(&documents(&[fails.value(), named("retries").value()]));
    lab.wait_failed("fails");
    lab.until_waiting("retries", "ImagePullBackOff");
    assert_eq!(phase(&lab, "retries"), "Pending");
}

#[test]
fn an_unknown_failure_policy_is_refused() {
    let Some(lab) = Lab::started("unknown_policy", "") else { return };
    let odd = pod("web", "localhost:1/data:1", "Always").annotate("imagevol.dev/pull-failure-policy", "Maybe");
    let refused = lab.daemon.ctl_with(&odd.json(), ["apply", "-f", "-"]);
    assert!(!refused.ok, "{}", refused.stdout);
    assert!(
        refused.stderr.contains("imagevol.dev/pull-failure-policy") && refused.stderr.contains("Maybe"),
        "{}",
        refused.stderr
    );
}

#[test]
fn sub_paths_stay_inside_the_image() {
    let Some(lab) = Lab::started("sub_paths", "") else { return };
    std::fs::write(lab.daemon.dir().join("outside"), "outside").unwrap();
    let escape = format!("../../../../../../../..{}/outside", lab.daemon.dir().display());
    let layer = LayerBuilder::new().file("file", "1\n").dir("dir").file("dir/file", "2\n").symlink("escape", &escape);
    let layer = layer.symlink("absolute", "/dir").symlink("loop", "loop");
    let registry = lab.registry();
    let reference = registry.push("data", "1", &ImageBuilder::new().layer(layer.gzip()).build());
    let cases = [("missing", "none"), ("under-a-file", "file/x"), ("escapes", "escape"), ("loops", "loop")];
    let part = |name: &str, path: &str| {
        Pod::new(name).volume("volume", &reference, "IfNotPresent").mount_part("volume", "/v", path)
    };
    lab.daemon.apply(&part("fine", "absolute").json());
    lab.daemon.wait_mounted("fine");
    let fine = lab.daemon.must(["path", "pod", "fine", "volume", "-c", "shell"]);
    assert_eq!(std::fs::read_to_string(format!("{}/file", fine.trim())).unwrap(), "2\n");
    for (name, path) in cases {
        lab.daemon.apply(&part(name, path).json());
        lab.until_waiting(name, "CreateContainerError");
        let status = lab.pod(name)["status"].clone();
        assert_eq!(status["phase"], "Pending", "{name}: as the kubelet, which tries for ever");
        let waiting = &status["containerStatuses"][0]["state"]["waiting"];
        assert!(waiting["message"].as_str().unwrap().contains(&format!("{path:?}")), "{name}: {waiting}");
        let story = lab.story(name).join("\n");
        assert!(story.contains("Failed: Error: "), "{name}: {story}");
    }
}
