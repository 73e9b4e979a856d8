//! A disk that loses bits under a running pod: it is found, the pod goes on, and who comes next gets good bytes.

use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;

use imagevol_test_support::registry::FakeRegistry;

use crate::lab::{Lab, image};
use crate::manifest::pod;

/// Where the first file's content begins in the tar of [`image`], after its header.
const CONTENT: u64 = 512;

/// A pod that reads an image, and where that is.
fn with_pod(lab: &Lab) -> (FakeRegistry, String) {
    let registry = lab.registry();
    let reference = registry.push("data", "1", &image("name", "content"));
    lab.daemon.apply(&pod("old", &reference, "IfNotPresent").json());
    lab.daemon.wait_mounted("old");
    (registry, reference)
}

fn flip(path: &PathBuf, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

/// The only file of the store with this suffix.
fn stored(lab: &Lab, family: &str, suffix: &str) -> PathBuf {
    let dir = std::fs::read_dir(lab.daemon.state_dir().join(family).join("sha256")).unwrap();
    let mut paths = dir.map(|entry| entry.unwrap().path());
    paths.find(|path| path.extension().is_some_and(|extension| extension == suffix)).unwrap()
}

fn device(lab: &Lab, pod: &str) -> u64 {
    std::fs::metadata(lab.daemon.path(pod, "volume")).unwrap().dev()
}

/// A new pod pulls what was lost and nothing else, beside the old one, over a kill of the daemon; then both end as any other.
fn the_next_pod_gets_a_good_copy(lab: &mut Lab, registry: &FakeRegistry, reference: &str) {
    let before = device(lab, "old");
    registry.clear_requests();
    lab.daemon.kill();
    lab.daemon.start();
    lab.daemon.apply(&pod("new", reference, "IfNotPresent").json());
    lab.daemon.wait_mounted("new");
    // A config is no larger than the question whether a pod may have it.
    assert_eq!(registry.gets("/blobs/"), 2, "the layer and the config: {:?}", registry.requests());
    assert_eq!(
        (lab.read("new", "volume", "file"), lab.read("new", "volume", "name")),
        ("1\n".into(), "content".into())
    );
    assert_eq!(device(lab, "old"), before, "nobody has touched the mount");
    assert_ne!(device(lab, "new"), before);
    assert_eq!(lab.read("old", "volume", "name"), "content", "it goes on");
    let report = lab.daemon.must(["fsck"]);
    assert!(report.contains("reads an earlier copy of ") && report.ends_with("No problems found.\n"), "{report}");
    // As its event says: delete the pod.
    lab.daemon.must(["delete", "pod", "old"]);
    lab.daemon.apply(&pod("old", reference, "IfNotPresent").json());
    lab.daemon.wait_mounted("old");
    assert_eq!((device(lab, "old"), lab.read("old", "volume", "file")), (device(lab, "new"), "1\n".into()));
    lab.daemon.must(["delete", "pod", "old", "new"]);
    lab.until("all unmounted", || lab.daemon.mounts().is_empty().then_some(()));
    lab.daemon.must(["rmi", reference]);
    lab.daemon.terminate();
    assert!(lab.daemon.fsck_offline().ok);
}

#[test]
fn fsck_repairs_under_a_running_pod() {
    let Some(mut lab) = Lab::started("fsck_repairs", "") else { return };
    let (registry, reference) = with_pod(&lab);
    flip(&stored(&lab, "layers", "tar"), CONTENT);
    let found = lab.daemon.ctl(["fsck"]);
    assert!(!found.ok && found.stdout.contains("content is corrupt"), "{}", found.stdout);
    assert!(found.stderr.contains("imagevol fsck --repair"), "{}", found.stderr);
    let repaired = lab.daemon.must(["fsck", "--repair"]);
    assert!(repaired.contains("set aside, and pulled again when it is wanted"), "{repaired}");
    assert!(repaired.ends_with("No problems left.\n"), "{repaired}");
    let message = lab.until_event("old", "ImageCorrupted");
    assert!(message.contains(&reference) && message.contains("delete the pod"), "{message}");
    assert!(lab.daemon.must(["get", "events", "-A"]).contains("node/"), "{}", lab.daemon.must(["get", "events", "-A"]));
    assert!(lab.metrics().contains("imagevol_corrupt_content_total{kind=\"layer\"} 1\n"), "{}", lab.metrics());
    assert!(lab.daemon.must(["fsck", "--repair"]).ends_with("No problems found.\n"));
    the_next_pod_gets_a_good_copy(&mut lab, &registry, &reference);
}

#[test]
fn the_scrub_finds_what_the_disk_has_lost() {
    let config = "scrub: {interval: 1s, maxBytesPerSecond: 1Gi}";
    let Some(mut lab) = Lab::started("the_scrub_finds", config) else { return };
    let (registry, reference) = with_pod(&lab);
    flip(&stored(&lab, "layers", "tar"), CONTENT);
    lab.until_event("old", "ImageCorrupted");
    the_next_pod_gets_a_good_copy(&mut lab, &registry, &reference);
}

#[test]
fn repaired_offline_a_pod_keeps_its_mount() {
    let Some(mut lab) = Lab::started("repaired_offline", "") else { return };
    let (registry, reference) = with_pod(&lab);
    lab.daemon.kill();
    flip(&stored(&lab, "layers", "tar"), CONTENT);
    let repaired = lab.daemon.fsck_offline_with(&["--repair"]);
    assert!(repaired.ok && repaired.stdout.ends_with("No problems left.\n"), "{}{}", repaired.stdout, repaired.stderr);
    assert!(lab.daemon.fsck_offline().ok);
    lab.daemon.start();
    the_next_pod_gets_a_good_copy(&mut lab, &registry, &reference);
}

#[test]
fn corrupt_metadata_is_made_again_without_the_registry() {
    let Some(lab) = Lab::started("corrupt_metadata", "") else { return };
    let (registry, reference) = with_pod(&lab);
    let before = device(&lab, "old");
    flip(&stored(&lab, "images", "erofs"), 1300);
    registry.clear_requests();
    lab.daemon.apply(&pod("new", &reference, "IfNotPresent").json());
    lab.daemon.wait_mounted("new");
    assert_eq!(registry.requests().len(), 0);
    assert_eq!(lab.read("new", "volume", "name"), "content");
    assert_eq!(device(&lab, "old"), before);
    assert_ne!(device(&lab, "new"), before);
    lab.until_event("old", "ImageCorrupted");
    lab.daemon.must(["fsck"]);
}
