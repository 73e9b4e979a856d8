//! What concerns the whole node, and so every pod on it: one test at a time, and none of another file beside it (`cargo test` runs one
//! file after the other).
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure is a failed test")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use imagevol_test_e2e::manifests::{csi, deployment, pod};
use imagevol_test_e2e::{Cluster, LoopbackRegistry, Namespace, SOON, images, until};
use serde_json::{Value, json};

static NODE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    NODE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Pods may be bound to the node again when this goes.
struct Drained<'a>(&'a Cluster, String);

impl Drop for Drained<'_> {
    fn drop(&mut self) {
        self.0.kubectl(&["uncordon", &self.1]);
    }
}

fn uids(namespace: &Namespace) -> Vec<String> {
    let pods = namespace.json(&["get", "pods", "-l", "app=web"]);
    let uid = |pod: &Value| pod.pointer("/metadata/uid").and_then(Value::as_str).unwrap().to_owned();
    pods.pointer("/items").and_then(Value::as_array).unwrap().iter().map(uid).collect()
}

#[test]
fn a_drained_node_keeps_its_images_and_nothing_else() {
    let Some(cluster) = Cluster::find("a_drained_node_keeps_its_images") else { return };
    let _alone = alone();
    let namespace = cluster.namespace("drain");
    let reference = images::push(cluster.registry(), namespace.name(), "v1", &images::site("drain"));
    let node = cluster.node();
    let mut web = pod(&cluster, "web", &[csi("site", &reference)]);
    web["spec"]["nodeSelector"] = json!({ "kubernetes.io/hostname": node });
    namespace.apply(&deployment(&web, 2));
    namespace.must(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    let (before, driver) = (uids(&namespace), cluster.driver(&node));
    assert!(before.iter().all(|uid| !driver.volumes(uid).is_empty()));
    let drained = Drained(&cluster, node.clone());
    let drain = ["drain", &node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=120s"];
    cluster.must(&drain);
    until("the volumes of evicted pods go", SOON, || {
        let left: Vec<_> = before.iter().flat_map(|uid| driver.volumes(uid)).collect();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    assert!(driver.json(&["images"]).to_string().contains(&reference), "the image is gone");
    drop(drained);
    namespace.must(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    assert!(uids(&namespace).iter().all(|uid| !before.contains(uid)));
    let pods = namespace.json(&["get", "pods", "-l", "app=web"]);
    let name = pods.pointer("/items/0/metadata/name").and_then(Value::as_str).unwrap();
    assert_eq!(namespace.read(name, "/site/index.html"), "drain");
    namespace.await_event(name, "Pulled", &format!("Container image \"{reference}\" already present on machine"));
}

/// The node's kubelet, which runs again when this goes.
struct Stopped<'a>(&'a Path);

fn part(root: &Path, command: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../hack/local-up-cluster.sh");
    let mut run = Command::new(script);
    let ended = run.args([command, "kubelet", "--root"]).arg(root).stdin(Stdio::null()).status().unwrap();
    assert!(ended.success() || std::thread::panicking(), "{command} kubelet: {ended}");
}

impl<'a> Stopped<'a> {
    fn stop(root: &'a Path) -> Self {
        part(root, "stop");
        Self(root)
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        part(self.0, "start");
    }
}

/// Nobody but the API server can have told the driver of the pod.
#[test]
fn an_image_is_there_before_the_kubelet_asks() {
    let Some(cluster) = Cluster::find_local("an_image_is_there_before_the_kubelet_asks") else { return };
    let _alone = alone();
    let namespace = cluster.namespace("prefetch");
    let registry = LoopbackRegistry::start();
    let image = images::site(namespace.name());
    let reference = registry.push("e2e/prefetch", "v1", &image);
    let mut web = pod(&cluster, "web", &[csi("site", &reference)]);
    web["spec"]["nodeName"] = json!(cluster.node());
    let stopped = Stopped::stop(cluster.root());
    namespace.apply(&web);
    let pulled = namespace.await_event("web", "Pulled", "Successfully pulled image");
    assert_eq!(pulled.component, "imagevol");
    drop(stopped);
    namespace.await_ready("web");
    assert_eq!(namespace.read("web", "/site/index.html"), namespace.name());
    for blob in image.blobs() {
        assert_eq!(registry.gets(&blob.digest.to_string()), 1, "{:#?}", registry.requests());
    }
    let told = namespace.events("web").into_iter().filter(|event| event.component == "imagevol");
    let told: Vec<_> = told.map(|event| (event.reason, event.count)).collect();
    assert_eq!(told, [("Pulling".to_owned(), 1), ("Pulled".to_owned(), 1)]);
}

/// The reasons that a report gives for an image, one for each time that it names it; empty where it needs none.
fn said(report: &Value, what: &str, reference: &str) -> Vec<String> {
    let items = report.get(what).and_then(Value::as_array).unwrap();
    let names = |item: &Value| item.get("names").and_then(Value::as_array).unwrap().contains(&json!(reference));
    let because = |item: &Value| item.get("because").and_then(Value::as_str).unwrap_or_default().to_owned();
    items.iter().filter(|item| names(item)).map(because).collect()
}

#[test]
fn a_collection_takes_an_image_once_its_pod_is_gone() {
    let Some(cluster) = Cluster::find("a_collection_takes_an_image") else { return };
    let _alone = alone();
    let namespace = cluster.namespace("collection");
    let reference = images::push(cluster.registry(), namespace.name(), "v1", &images::site("collection"));
    namespace.run(&pod(&cluster, "web", &[csi("site", &reference)]));
    let driver = namespace.driver_of("web");
    let collected = driver.json(&["gc", "--all"]);
    let kept = format!("used by pod {}/web volume site", namespace.name());
    assert_eq!(said(&collected, "stayed", &reference), [kept], "{collected:#}");
    assert_eq!(namespace.read("web", "/site/index.html"), "collection");
    namespace.delete_pod("web", SOON);
    // Where the node's images have a minimum age, they reach it: by default two minutes.
    until("the image of no pod goes", 3 * SOON, || {
        let collected = driver.json(&["gc", "--all"]);
        if said(&collected, "gone", &reference).is_empty() { Err(collected) } else { Ok(()) }
    });
    assert!(!driver.json(&["images"]).to_string().contains(&reference));
}
