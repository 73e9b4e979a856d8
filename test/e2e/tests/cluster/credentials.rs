//! Who may have a private image.

use imagevol_test_e2e::images::{self, PASSWORD, USER};
use imagevol_test_e2e::manifests::{csi, csi_with, pod, with_secret};
use imagevol_test_e2e::{Cluster, Namespace};
use serde_json::json;

fn pushed(cluster: &Cluster, namespace: &Namespace) -> String {
    images::push_private(cluster.private_registry(), namespace.name(), "v1", &images::site("private"))
}

/// Neither the password nor its form in a header may be seen by anybody.
fn assert_kept_quiet(namespace: &Namespace, pod: &str, secrets: &[&str]) {
    let driver = namespace.driver_of(pod);
    let seen =
        [namespace.must(&["describe", "pod", pod]), namespace.must(&["get", "events", "-o", "json"]), driver.log(1000)];
    for secret in secrets {
        assert!(seen.iter().all(|text| !text.contains(secret)), "{secret} was shown");
    }
}

#[test]
fn a_secret_of_the_volume_opens_the_registry() {
    let Some(cluster) = Cluster::find("a_secret_of_the_volume_opens_the_registry") else { return };
    let namespace = cluster.namespace("secret");
    let reference = pushed(&cluster, &namespace);
    namespace.pull_secret("registry", cluster.private_registry(), USER, PASSWORD);
    namespace.run(&pod(&cluster, "web", &[with_secret(csi("site", &reference), "registry")]));
    assert_eq!(namespace.read("web", "/site/index.html"), "private");
}

/// With the pull-secrets profile, which the overlay of the local cluster has.
#[test]
fn the_pods_own_pull_secrets_open_it_too() {
    let Some(cluster) = Cluster::find_local("the_pods_own_pull_secrets_open_it_too") else { return };
    let namespace = cluster.namespace("podsecret");
    let reference = pushed(&cluster, &namespace);
    namespace.pull_secret("registry", cluster.private_registry(), USER, PASSWORD);
    let mut pod = pod(&cluster, "web", &[csi("site", &reference)]);
    pod["spec"]["imagePullSecrets"] = json!([{ "name": "registry" }]);
    namespace.run(&pod);
    assert_eq!(namespace.read("web", "/site/index.html"), "private");
}

#[test]
fn a_wrong_secret_is_refused_and_not_shown() {
    let Some(cluster) = Cluster::find("a_wrong_secret_is_refused_and_not_shown") else { return };
    let namespace = cluster.namespace("wrong");
    let reference = pushed(&cluster, &namespace);
    namespace.pull_secret("registry", cluster.private_registry(), USER, "mistyped-1f2e");
    namespace.apply(&pod(&cluster, "web", &[with_secret(csi("site", &reference), "registry")]));
    namespace.await_event("web", "Failed", &format!("Failed to pull image \"{reference}\": "));
    namespace.await_event("web", "Failed", "401 Unauthorized");
    namespace.await_event("web", "FailedMount", "code = PermissionDenied");
    // Base64 of alice:mistyped-1f2e.
    assert_kept_quiet(&namespace, "web", &["mistyped-1f2e", "YWxpY2U6bWlzdHlwZWQtMWYyZQ"]);
}

#[test]
fn a_missing_secret_is_named_and_waited_for() {
    let Some(cluster) = Cluster::find("a_missing_secret_is_named_and_waited_for") else { return };
    let namespace = cluster.namespace("missing");
    let reference = pushed(&cluster, &namespace);
    namespace.apply(&pod(&cluster, "web", &[with_secret(csi("site", &reference), "registry")]));
    namespace.await_event("web", "FailedMount", "secrets \"registry\" not found");
    namespace.pull_secret("registry", cluster.private_registry(), USER, PASSWORD);
    namespace.await_ready("web");
    assert_eq!(namespace.read("web", "/site/index.html"), "private");
}

#[test]
fn without_any_secret_the_registry_says_no() {
    let Some(cluster) = Cluster::find("without_any_secret_the_registry_says_no") else { return };
    let namespace = cluster.namespace("nosecret");
    let reference = pushed(&cluster, &namespace);
    namespace.apply(&pod(&cluster, "web", &[csi("site", &reference)]));
    namespace.await_event("web", "Failed", "401 Unauthorized");
    namespace.await_event("web", "FailedMount", "code = PermissionDenied");
}

/// The image is on the node, and mounted there for another namespace.
#[test]
fn what_one_tenant_pulled_is_not_mounted_for_another() {
    let Some(cluster) = Cluster::find("what_one_tenant_pulled") else { return };
    let owner = cluster.namespace("owner");
    let reference = pushed(&cluster, &owner);
    owner.pull_secret("registry", cluster.private_registry(), USER, PASSWORD);
    owner.run(&pod(&cluster, "web", &[with_secret(csi("site", &reference), "registry")]));
    let thief = cluster.namespace("thief");
    thief.pull_secret("wrong", cluster.private_registry(), "mallory", "guessed");
    for policy in ["Always", "IfNotPresent", "Never"] {
        let volume = csi_with("site", &json!({ "reference": reference, "pullPolicy": policy }));
        thief.apply(&pod(&cluster, &format!("none-{}", policy.to_lowercase()), std::slice::from_ref(&volume)));
        thief.apply(&pod(&cluster, &format!("wrong-{}", policy.to_lowercase()), &[with_secret(volume, "wrong")]));
    }
    for pod in ["none-always", "none-ifnotpresent", "none-never", "wrong-always", "wrong-ifnotpresent", "wrong-never"] {
        let code = if pod.ends_with("never") { "FailedPrecondition" } else { "PermissionDenied" };
        thief.await_event(pod, "FailedMount", &format!("rpc error: code = {code} "));
        assert_eq!(thief.pod(pod)["status"]["phase"], "Pending", "{pod}");
        let pulled = |event: &imagevol_test_e2e::Event| event.reason == "Pulled" && event.message.contains(&reference);
        assert!(!thief.events(pod).iter().any(pulled), "{pod}");
    }
    // Whoever shows the right password may have it, and nothing is fetched again.
    thief.pull_secret("right", cluster.private_registry(), USER, PASSWORD);
    thief.run(&pod(&cluster, "right", &[with_secret(csi("site", &reference), "right")]));
    assert_eq!(thief.read("right", "/site/index.html"), "private");
}
