//! What is fetched once, and what is fetched at the same time.

use imagevol_test_support::registry::{Fault, Gate};
use serde_json::Value;

use crate::lab::{Lab, image};
use crate::manifest::{Pod, documents, pod};

/// Pods that want one image.
const PODS: usize = 50;

#[test]
fn fifty_pods_fetch_a_layer_once() {
    let Some(lab) = Lab::started("fifty_pods", "") else { return };
    let registry = lab.registry();
    let image = image("name", "shared");
    let reference = registry.push("data", "1", &image);
    let gate = Gate::new();
    let layer = format!("/blobs/{}", image.layers[0].digest);
    registry.faults().always(&layer, Fault::Hold(gate.clone()));
    let pods: Vec<Value> = (0..PODS).map(|number| pod(&format!("p{number}"), &reference, "Always").value()).collect();
    lab.daemon.apply(&documents(&pods));
    lab.run(gate.arrived(1));
    let all_wait =
        || (lab.daemon.must(["get", "pods", "--no-headers"]).matches(" Pulling ").count() == PODS).then_some(());
    lab.until("all pods pulling", all_wait);
    gate.open();
    let names: Vec<String> = (0..PODS).map(|number| format!("p{number}")).collect();
    let wait = ["wait", "pod"].into_iter().chain(names.iter().map(String::as_str));
    lab.daemon.must(wait.chain(["--for=mounted", "--timeout=60s"]));
    assert_eq!(registry.gets(&layer), 1);
    assert_eq!(registry.gets("/blobs/"), 2, "the layer and the config");
    assert_eq!(lab.daemon.mounts().len(), PODS + 1, "one superblock, staged, and a clone for each pod");
    assert_eq!(lab.read("p49", "volume", "name"), "shared");
    let users = lab.daemon.json(["images"])["items"][0]["usedBy"].as_array().unwrap().len();
    assert_eq!(users, PODS);
}

/// A pod of two volumes whose images' layers wait at the gate.
fn two_volumes(lab: &Lab, gate: &Gate) -> imagevol_test_support::registry::FakeRegistry {
    let registry = lab.registry();
    let (first, second) = (image("name", "first"), image("name", "second"));
    for layer in [&first.layers[0], &second.layers[0]] {
        registry.faults().always(&format!("/blobs/{}", layer.digest), Fault::Hold(gate.clone()));
    }
    let pod = Pod::new("both").volume("first", &registry.push("first", "1", &first), "Always");
    let pod = pod.volume("second", &registry.push("second", "1", &second), "Always");
    lab.daemon.apply(&pod.mount("first", "/first").mount("second", "/second").json());
    registry
}

#[test]
fn volumes_of_a_pod_are_pulled_at_the_same_time() {
    let Some(lab) = Lab::started("at_the_same_time", "") else { return };
    let gate = Gate::new();
    let _registry = two_volumes(&lab, &gate);
    lab.run(gate.arrived(2));
    let status = lab.daemon.json(["status"]);
    assert_eq!(status["pulls"].as_array().unwrap().len(), 2, "{status}");
    gate.open();
    lab.daemon.wait_mounted("both");
    assert_eq!(
        (lab.read("both", "first", "name"), lab.read("both", "second", "name")),
        ("first".into(), "second".into())
    );
}

#[test]
fn serialized_pulls_wait_for_each_other() {
    let Some(lab) = Lab::started("serialized", "serializeImagePulls: true") else { return };
    let gate = Gate::new();
    let registry = two_volumes(&lab, &gate);
    lab.run(gate.arrived(1));
    let asked = |repository: &str| registry.requests().iter().any(|request| request.path.contains(repository));
    // Both volumes have said that they pull by now, and the second has asked for nothing.
    lab.until("both pulls told", || {
        (lab.events("both").iter().filter(|event| event.reason == "Pulling").count() == 2).then_some(())
    });
    let began_first = if asked("/first/") { "/first/" } else { "/second/" };
    let other = if began_first == "/first/" { "/second/" } else { "/first/" };
    assert!(!asked(other), "{:?}", registry.requests());
    assert_eq!(lab.daemon.json(["status"])["pulls"].as_array().unwrap().len(), 1);
    gate.open();
    lab.daemon.wait_mounted("both");
    let order: Vec<bool> = registry
        .requests()
        .iter()
        .filter(|request| request.path != "/v2/")
        .map(|request| request.path.contains(began_first))
        .collect();
    assert!(order.is_sorted_by(|before, after| before >= after), "one after the other: {:?}", registry.requests());
}
