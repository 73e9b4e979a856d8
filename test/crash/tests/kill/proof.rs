//! What must hold: while no daemon runs, when it answers again, and when it has come to rest.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use imagevol_api::records::{ImagePullIntent, ImagePulledRecord};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::catalog::Catalog;
use crate::node::Node;
use crate::world::{Pod, Presence, Seen, World};

/// How many images are looked into after each run.
const INSPECTED: usize = 3;

/// Nobody runs: every acknowledged volume is there with its bytes.
pub(crate) fn promises(node: &Node, world: &World) {
    world.promised().for_each(|pod| pod.check_promise(node));
}

/// Nobody runs: rows, files and mounts agree.
pub(crate) fn offline(node: &Node) {
    let ran = node.daemon.fsck_offline();
    assert!(ran.ok, "imagevold fsck: {}{}\n{}", ran.stdout, ran.stderr, node.daemon.log());
    check_records(node);
}

/// The daemon answers: nothing of what it had said has changed.
pub(crate) fn restarted(node: &Node, world: &mut World, events: &BTreeSet<String>) {
    node.until("readiness", || {
        let status = node.daemon.json(["status"]);
        if status["notReady"] == serde_json::json!([]) { Ok(()) } else { Err(status.to_string()) }
    });
    let listed = pods(node);
    world.resolve(&listed);
    for pod in world.there() {
        let shown = &listed[&pod.name];
        match pod.seen {
            Seen::Nothing => {}
            Seen::Mounted => assert!(is_mounted(shown), "{shown}\n{}", node.daemon.log()),
            Seen::Failed => assert_eq!(shown["status"]["phase"], "Failed", "{}", node.daemon.log()),
        }
    }
    promises(node, world);
    let kept = event_names(node);
    assert!(events.is_subset(&kept), "events are lost: {:?}", events.difference(&kept));
}

/// Waits until the daemon has nothing to do any more, and looks at everything.
pub(crate) fn settled(node: &Node, world: &mut World, catalog: &Catalog) {
    node.until("what pods wait for", || {
        world.look(node);
        if world.is_waiting() { Err(format!("{:?}", pods(node))) } else { Ok(()) }
    });
    promises(node, world);
    node.until("the mounts that must be", || mounts_are_those_of(node, world));
    images(node, catalog);
    node.until("the end of all pulls", || {
        let status = node.daemon.json(["status"]);
        if status["pulls"] == serde_json::json!([]) { Ok(()) } else { Err(status.to_string()) }
    });
    online(node, catalog);
}

fn pods(node: &Node) -> BTreeMap<String, Value> {
    let pods = node.items(&["get", "pods", "-A"]).into_iter();
    pods.map(|pod| (pod["metadata"]["name"].as_str().unwrap().to_owned(), pod)).collect()
}

fn is_mounted(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions
        .into_iter()
        .any(|condition| condition["type"] == "imagevol.dev/VolumesMounted" && condition["status"] == "True")
}

pub(crate) fn event_names(node: &Node) -> BTreeSet<String> {
    let events = node.items(&["get", "events", "-A"]).into_iter();
    events.map(|event| event["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

/// Exactly the volumes of pods that are there, and the images that they hold.
fn mounts_are_those_of(node: &Node, world: &World) -> Result<(), String> {
    let (root, staging) = (node.daemon.root_dir(), node.daemon.staging_dir());
    let mounted: Vec<&Pod> = world.there().filter(|pod| !pod.bad).collect();
    let mut wanted: BTreeSet<PathBuf> = mounted.iter().flat_map(|pod| pod.places(&root)).collect();
    wanted.extend(mounted.iter().flat_map(|pod| pod.images()).map(|image| staging.join(image.hex())));
    let found: BTreeSet<PathBuf> = node.mounts().into_keys().collect();
    let uids: BTreeSet<String> = mounted.iter().filter_map(|pod| pod.uid.clone()).collect();
    let dirs = node.names("kubelet/pods");
    let staged: BTreeSet<PathBuf> = node.names("run/staging").into_iter().map(|name| staging.join(name)).collect();
    if found == wanted && dirs == uids && staged.is_subset(&wanted) {
        return Ok(());
    }
    Err(format!("wanted {wanted:#?}\nfound {found:#?}\ndirectories {dirs:#?} of {uids:#?}\nstaged {staged:#?}"))
}

/// Every image that is shown is whole, and one that can be whole.
fn images(node: &Node, catalog: &Catalog) {
    // Newest first: those can be halves.
    for (age, image) in node.items(&["images"]).into_iter().enumerate() {
        let id = image["id"].as_str().unwrap();
        assert!(catalog.good(id).is_some(), "an image that cannot be pulled: {image}");
        if age >= INSPECTED {
            continue;
        }
        let detail = node.daemon.json(["inspect", id]);
        assert_eq!(detail["layers"].as_array().unwrap().len(), catalog.good(id).unwrap().blobs.len(), "{detail}");
    }
}

/// The daemon's own proof, and that what it still keeps is known content.
fn online(node: &Node, catalog: &Catalog) {
    let report = node.daemon.json(["fsck"]);
    assert_eq!(report["problems"], serde_json::json!([]), "{report:#}\n{}", node.daemon.log());
    for line in report["unfinished"].as_array().unwrap() {
        let line = line.as_str().unwrap();
        assert!(!line.contains("no row names it"), "{line}\n{}", node.daemon.log());
    }
    let sizes: BTreeMap<String, u64> = catalog
        .images
        .iter()
        .flat_map(|image| &image.blobs)
        .map(|(digest, size)| (digest.hex().to_owned(), *size))
        .collect();
    for name in node.names("state/ingest") {
        let data = node.daemon.state_dir().join("ingest").join(&name).join("data");
        let size = sizes.get(name.rsplit_once('-').unwrap().1);
        let size = size.unwrap_or_else(|| panic!("a download of nothing that is served: {name}"));
        // Killed before its first byte, it has no file.
        let length = data.metadata().map_or(0, |data| data.len());
        assert!(length <= size.next_multiple_of(4096), "{name} has {length} of {size} bytes");
        assert!(!name.starts_with("packed-"), "{name} cannot be gone on with, and nobody does");
    }
    check_records(node);
    assert!(node.names("manifests").iter().all(|name| !name.starts_with('.')));
}

/// Every record can be read, whatever a kill left beside it.
fn check_records(node: &Node) {
    check_records_in::<ImagePullIntent>(node, "state/image_manager/pulling");
    check_records_in::<ImagePulledRecord>(node, "state/image_manager/pulled");
}

fn check_records_in<T: DeserializeOwned>(node: &Node, place: &str) {
    for name in node.names(place).iter().filter(|name| name.strip_suffix(".tmp").is_none()) {
        let text = std::fs::read_to_string(node.daemon.dir().join(place).join(name)).unwrap();
        assert!(serde_json::from_str::<T>(&text).is_ok(), "{place}/{name}: {text}");
    }
}

/// All pods deleted, all images removed: nothing is left.
pub(crate) fn emptied(node: &Node, world: &mut World, catalog: &Catalog) {
    let names: Vec<String> = world.there().map(|pod| pod.name.clone()).collect();
    for name in &names {
        world.delete(node, name);
    }
    assert!(world.pods.values().all(|pod| pod.presence == Presence::Gone));
    settled(node, world, catalog);
    for image in node.items(&["images"]) {
        node.daemon.must(["rmi", image["id"].as_str().unwrap()]);
    }
    assert_eq!(node.items(&["images"]).len(), 0);
    settled(node, world, catalog);
    assert_eq!(node.names("state/images/sha256"), BTreeSet::new());
}
