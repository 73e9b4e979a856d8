//! Many pods, and pods that go, with a registry that counts and waits.

use std::path::{Path, PathBuf};
use std::time::Duration;

use imagevol_test_e2e::manifests::{csi, deployment, pod};
use imagevol_test_e2e::{Cluster, LoopbackRegistry, Namespace, SOON, images, until};
use imagevol_test_support::image::Image;
use imagevol_test_support::registry::{Fault, Gate};

/// Far below the two minutes after which the kubelet ends a call by itself.
const AT_ONCE: Duration = Duration::from_secs(20);
/// Pods of one image on one node; a kubelet takes 110 by default.
const PODS: u32 = 50;

/// Mounts and directories of a pod below the kubelet's root.
fn left(cluster: &Cluster, uid: &str) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let pod = cluster.root().join("var/lib/kubelet/pods").join(uid);
    let mounts = points.filter(|point| point.starts_with(&pod));
    mounts.chain(std::iter::once(pod.clone()).filter(|pod: &PathBuf| Path::exists(pod))).collect()
}

/// An artifact of more than a MiB that no earlier run has left on the node.
fn big(namespace: &Namespace) -> Image {
    images::model(&namespace.name().repeat(1 << 17))
}

#[test]
fn fifty_pods_of_one_image_fetch_it_once() {
    let Some(cluster) = Cluster::find_local("fifty_pods_of_one_image_fetch_it_once") else { return };
    let namespace = cluster.namespace("fifty");
    let registry = LoopbackRegistry::start();
    let image = images::site(namespace.name());
    let reference = registry.push("e2e/fifty", "v1", &image);
    namespace.apply(&deployment(&pod(&cluster, "web", &[csi("site", &reference)]), PODS));
    namespace.must(&["rollout", "status", "deployment/web", "--timeout=300s"]);
    for blob in image.blobs() {
        assert_eq!(registry.gets(&blob.digest.to_string()), 1, "{:#?}", registry.requests());
    }
    let driver = cluster.driver(&cluster.node());
    let pods = namespace.json(&["get", "pods", "-l", "app=web"]);
    let uids: Vec<_> = pods["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pod| pod["metadata"]["uid"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(uids.len(), 50);
    namespace.must(&["delete", "deployment", "web"]);
    namespace.must(&["wait", "--for=delete", "pod", "-l", "app=web", "--timeout=300s"]);
    for uid in uids {
        assert!(driver.volumes(&uid).is_empty(), "{:#?}", driver.volumes(&uid));
        until("the kubelet's directory of the pod goes", SOON, || {
            if left(&cluster, &uid).is_empty() { Ok(()) } else { Err(left(&cluster, &uid)) }
        });
    }
}

#[test]
fn a_pod_that_is_deleted_during_its_pull_is_gone_at_once() {
    let Some(cluster) = Cluster::find_local("a_pod_that_is_deleted_during_its_pull") else { return };
    let namespace = cluster.namespace("deleted");
    let (registry, gate) = (LoopbackRegistry::start(), Gate::new());
    let image = big(&namespace);
    let reference = registry.push("e2e/deleted", "v1", &image);
    let blob = image.layers.first().unwrap().digest.to_string();
    registry.faults().always(&blob, Fault::StallAt(1 << 16, gate.clone()));
    let stored = namespace.apply(&pod(&cluster, "web", &[csi("model", &reference)]));
    let uid = stored["metadata"]["uid"].as_str().unwrap().to_owned();
    registry.await_arrivals(&gate, 1, SOON);
    let driver = namespace.driver_of("web");
    assert!(!driver.volumes(&uid).is_empty(), "the volume is not listed");
    let pulls_it = |pull: &serde_json::Value| pull.to_string().contains(&reference);
    assert!(driver.pulls().iter().any(pulls_it), "{:#?}", driver.pulls());
    namespace.delete_pod("web", AT_ONCE);
    until("no row of the pod is left", SOON, || {
        let volumes = driver.volumes(&uid);
        if volumes.is_empty() { Ok(()) } else { Err(volumes) }
    });
    until("no mount of the pod is left", SOON, || {
        let left = left(&cluster, &uid);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    // Nobody has wanted it for 30 seconds then.
    until("the pull ends", SOON, || if driver.pulls().iter().any(pulls_it) { Err(driver.pulls()) } else { Ok(()) });
    gate.open();
}

#[test]
fn a_pull_goes_on_for_the_pod_that_comes_next() {
    let Some(cluster) = Cluster::find_local("a_pull_goes_on_for_the_pod_that_comes_next") else { return };
    let namespace = cluster.namespace("next");
    let (registry, gate) = (LoopbackRegistry::start(), Gate::new());
    let image = big(&namespace);
    let reference = registry.push("e2e/next", "v1", &image);
    let blob = image.layers.first().unwrap().digest.to_string();
    registry.faults().always(&blob, Fault::StallAt(1 << 16, gate.clone()));
    namespace.apply(&pod(&cluster, "first", &[csi("model", &reference)]));
    registry.await_arrivals(&gate, 1, SOON);
    namespace.delete_pod("first", AT_ONCE);
    namespace.apply(&pod(&cluster, "second", &[csi("model", &reference)]));
    namespace.await_event("second", "Pulling", &reference);
    gate.open();
    namespace.await_ready("second");
    assert_eq!(registry.gets(&blob), 1, "{:#?}", registry.requests());
}

#[test]
fn passing_errors_of_a_registry_cost_no_back_off_of_the_kubelet() {
    let Some(cluster) = Cluster::find_local("passing_errors_of_a_registry") else { return };
    let namespace = cluster.namespace("passing");
    let registry = LoopbackRegistry::start();
    let reference = registry.push("e2e/passing", "v1", &images::site(namespace.name()));
    registry.faults().times(2, "/blobs/", Fault::status(503));
    registry.faults().once("/blobs/", Fault::Truncate(100));
    namespace.run(&pod(&cluster, "web", &[csi("site", &reference)]));
    assert_eq!(namespace.read("web", "/site/index.html"), namespace.name());
    let events = namespace.events("web");
    assert!(events.iter().all(|event| event.reason != "FailedMount"), "{events:#?}");
}
