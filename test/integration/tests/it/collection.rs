//! Garbage collection of images, as the node's owner meets it.

use crate::lab::{Lab, image};
use crate::manifest::pod;

/// References of the images on the node.
fn images(lab: &Lab) -> Vec<String> {
    let list = lab.daemon.json(["images"]);
    let names = |image: &serde_json::Value| image["repoTags"][0].as_str().unwrap_or_default().to_owned();
    list["items"].as_array().unwrap().iter().map(names).collect()
}

/// Whole seconds for which the kernel has run: ages are counted in them.
fn uptime() -> u64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap();
    text.split('.').next().unwrap().parse().unwrap()
}

#[test]
fn a_start_frees_what_nobody_needs_and_tells_that_it_is_not_enough() {
    let Some(mut lab) = Lab::started("collection", "imageMinimumGCAge: 0s") else { return };
    let registry = lab.registry();
    let [kept, left] = ["kept", "left"].map(|name| registry.push(name, "1", &image("name", name)));
    lab.daemon.apply(&pod("a", &kept, "IfNotPresent").json());
    lab.daemon.wait_mounted("a");
    lab.daemon.must(["pull", "--quiet", &left]);
    assert_eq!(images(&lab).len(), 2);
    let pulled = uptime();
    lab.until("time", || (uptime() > pulled + 2).then_some(()));
    assert!(lab.daemon.terminate());
    lab = lab.config("imageGCHighThresholdPercent: 0\nimageGCLowThresholdPercent: 0");
    lab.daemon.start();
    lab.until("the collection", || (images(&lab) == [kept.clone()]).then_some(()));
    lab.until("the event", || {
        let events = lab.daemon.must(["get", "events", "-A"]);
        (events.contains("FreeDiskSpaceFailed") && events.contains("Insufficient free disk space")).then_some(())
    });
    let page = lab.metrics();
    for line in [
        "kubelet_image_garbage_collected_total{reason=\"space\"} 1\n",
        "imagevol_image_gc_failures_total 1\n",
        "kubelet_imagemanager_ondisk_pulledrecords 1\n",
    ] {
        assert!(page.contains(line), "{line} is not in\n{page}");
    }
    assert_eq!(lab.read("a", "volume", "name"), "kept", "it was mounted all the time");
}
