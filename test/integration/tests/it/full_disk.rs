//! A disk that fills up: what runs goes on, what was begun leaves nothing, and all works again once there is room, without a restart.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use imagevol_test_support::daemon::{Ran, have};
use imagevol_test_support::image::{Image, ImageBuilder, LayerBuilder};
use imagevol_test_support::registry::{FakeRegistry, Fault, Gate};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::syncfs;

use crate::lab::{Lab, image};
use crate::manifest::pod;

/// The disk of the state directory, bytes.
const DISK: u64 = 64 << 20;
/// Blocks that are left, up to so many: a pull of two small layers is done with fewer.
const ROOMS: u64 = 24;
/// A block of its file system, bytes.
const BLOCK: u64 = 4096;
/// What is told to whoever can do something about it.
const HINT: &str = "remove other files, or images that nobody needs";

/// A daemon whose state lies on a small disk of its own, and a pod `runs` that reads an image from there.
struct Node {
    lab: Lab,
    registry: FakeRegistry,
}

/// Files of the store with their lengths: content, images, and what is unfinished.
type Files = BTreeSet<(PathBuf, u64)>;

// === impl Node ===

impl Node {
    fn started(test: &str, config: &str) -> Option<Self> {
        if !have(test, &["mkfs.ext4", "mount"]) {
            return None;
        }
        let lab =
            Lab::new(test)?.config("pullFailurePolicy: Retry\nimageMinimumGCAge: 0s\nimageGCHighThresholdPercent: 100");
        let mut lab = lab.config(config);
        mount_disk(&lab);
        lab.daemon.start();
        let registry = lab.registry();
        let node = Self { lab, registry };
        node.apply("runs", &node.registry.push("runs", "1", &image("name", "content")));
        node.lab.daemon.wait_mounted("runs");
        Some(node)
    }

    fn apply(&self, name: &str, reference: &str) {
        self.lab.daemon.apply(&pod(name, reference, "IfNotPresent").json());
    }

    /// Another program takes all room but so many blocks.
    fn fill(&self, spare: u64) {
        let file = File::options().create(true).append(true).open(self.ballast()).unwrap();
        let mut length = file.metadata().unwrap().len();
        for size in [1 << 20, BLOCK] {
            // What others have written and has no blocks yet is given them first.
            syncfs(&file).unwrap();
            while fallocate(&file, FallocateFlags::empty(), offset(length), offset(size)).is_ok() {
                length += size;
            }
        }
        file.set_len(length.saturating_sub(spare * BLOCK)).unwrap();
        syncfs(&file).unwrap();
    }

    /// It gives its room back.
    fn empty(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.lab.daemon.state_dir().join("ballast")
    }

    fn files(&self) -> Files {
        let mut files = Files::new();
        for family in ["blobs", "layers", "images", "ingest"] {
            find_files(&self.lab.daemon.state_dir().join(family), &mut files);
        }
        files
    }

    /// The daemon lives, the pod that ran reads on, and there is nothing on the disk but what was there before.
    fn assert_unharmed(&self, before: &Files) {
        assert_eq!(self.lab.read("runs", "volume", "name"), "content");
        let fsck = self.lab.daemon.ctl(["fsck"]);
        assert!(fsck.ok && fsck.stdout.ends_with("No problems found.\n"), "{}{}", fsck.stdout, fsck.stderr);
        let left = || self.files().into_iter().filter(|file| !before.contains(file)).collect::<Vec<_>>();
        self.lab.until(&format!("the end of the pull, which leaves {:?}", left()), || left().is_empty().then_some(()));
        assert_eq!(self.files(), *before);
    }

    /// A pod is told once, in words, that the disk is full; once there is room it mounts, and the daemon is the one that it was.
    fn recovers(&self, pod: &str, before: &Files, told: &[&str]) {
        let message = self.lab.until_event(pod, "Failed");
        assert!(told.iter().all(|part| message.contains(part)), "{message}\n{}", self.lab.daemon.log());
        let story = self.lab.story(pod);
        assert_eq!(story.iter().filter(|line| line.starts_with("Failed: Failed")).count(), 1, "{story:#?}");
        self.lab.until_waiting(pod, "ImagePullBackOff");
        self.assert_unharmed(before);
        let daemon = self.lab.daemon.pid();
        self.empty();
        self.lab.daemon.wait_mounted(pod);
        assert_eq!(self.lab.daemon.pid(), daemon);
        self.lab.daemon.must(["fsck"]);
    }
}

/// A file system in a file, where the state directory will be. It goes with the mount namespace of the test, and its loop device with it.
fn mount_disk(lab: &Lab) {
    let (file, state) = (lab.daemon.dir().join("disk"), lab.daemon.state_dir());
    File::create(&file).unwrap().set_len(DISK).unwrap();
    fs::create_dir(&state).unwrap();
    let run = |command: &mut Command| {
        let ran = command.stdin(Stdio::null()).output().unwrap();
        assert!(ran.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ran.stderr));
    };
    run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0", "-O", "^has_journal"]).arg(&file));
    run(Command::new("mount").args(["-o", "loop"]).args([&file, &state]));
}

fn offset(bytes: u64) -> i64 {
    bytes.try_into().unwrap()
}

fn find_files(dir: &Path, files: &mut Files) {
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        // What is being deleted meanwhile is no file any more.
        let Ok(found) = path.symlink_metadata() else { continue };
        if found.is_dir() {
            find_files(&path, files);
        } else {
            files.insert((path, found.len()));
        }
    }
}

/// Bytes that no codec makes smaller (xorshift64, Marsaglia 2003).
fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..size.div_ceil(8)).flat_map(|_| next()).take(size).collect()
}

/// One layer of one file.
fn large(content: impl AsRef<[u8]>) -> Image {
    ImageBuilder::new().layer(LayerBuilder::new().file("large", content).gzip()).build()
}

#[test]
fn a_layer_that_unpacks_to_more_than_fits_leaves_nothing() {
    let Some(node) = Node::started("unpacks", "limits: {minFreeBytes: 4Mi}") else { return };
    let before = node.files();
    // What the manifest says of it fits.
    node.fill(8 << 20 >> 12);
    node.apply("unpacks", &node.registry.push("unpacks", "1", &large(vec![0; 24 << 20])));
    node.recovers("unpacks", &before, &["not enough disk space: only ", "of which 4.0 MiB are kept free", HINT]);
}

#[test]
fn a_disk_that_fills_up_in_the_middle_of_a_layer_takes_nothing_else_with_it() {
    let Some(node) = Node::started("middle", "limits: {minFreeBytes: 0}") else { return };
    let (before, image, gate) = (node.files(), large(noise(8 << 20)), Gate::new());
    let reference = node.registry.push("middle", "1", &image);
    let blob = format!("/blobs/{}", image.layers[0].digest);
    node.registry.faults().once(&blob, Fault::StallAt(4 << 20, gate.clone()));
    node.apply("middle", &reference);
    node.lab.run(gate.arrived(1));
    node.fill(0);
    gate.open();
    node.recovers("middle", &before, &["not enough disk space: ", "No space left on device", HINT]);
    assert_eq!(fs::read(node.lab.daemon.path("middle", "volume").join("large")).unwrap(), noise(8 << 20));
}

#[test]
fn a_disk_that_is_full_refuses_a_pull_with_numbers() {
    let Some(node) = Node::started("before", "limits: {minFreeBytes: 0}") else { return };
    let before = node.files();
    node.fill(16);
    node.apply("before", &node.registry.push("before", "1", &large(noise(8 << 20))));
    let numbers = ["not enough disk space for image ", ": needs at least 8.4 MiB, ", " free, nothing could be freed"];
    node.recovers("before", &before, &numbers);
}

/// Every amount of room from none to enough: whatever a pull writes meets the full disk once, its row in the database too.
#[test]
fn a_pull_fails_cleanly_wherever_the_disk_is_full() {
    let Some(node) = Node::started("wherever", "limits: {minFreeBytes: 0}") else { return };
    let layer = |name: &str| LayerBuilder::new().file(name, noise(9000)).gzip();
    let image = ImageBuilder::new().layer(layer("one")).layer(layer("other")).build();
    let (before, reference) = (node.files(), node.registry.push("small", "1", &image));
    let mut failures = 0;
    for spare in 0..ROOMS {
        node.fill(spare);
        let Ran { ok, stderr, .. } = node.lab.daemon.ctl(["pull", "-q", &reference]);
        if ok {
            node.lab.daemon.must(["rmi", &reference]);
        } else {
            failures += 1;
            assert!(stderr.contains("not enough disk space") || stderr.contains("No space left"), "{spare}: {stderr}");
        }
        node.assert_unharmed(&before);
        node.empty();
    }
    assert!((4..ROOMS).contains(&failures), "{failures}");
    node.lab.daemon.must(["pull", "-q", &reference]);
}

#[test]
fn an_import_on_a_full_disk_leaves_nothing() {
    let Some(node) = Node::started("import_full", "limits: {minFreeBytes: 0}") else { return };
    let (before, dir) = (node.files(), node.lab.daemon.dir().join("layout"));
    image("name", "imported").write_layout(&dir, "r.io/imported:1");
    node.fill(0);
    let ran = node.lab.daemon.ctl(["import", "-q", dir.to_str().unwrap()]);
    assert!(!ran.ok && ran.stderr.contains("not enough disk space: ") && ran.stderr.contains(HINT), "{}", ran.stderr);
    node.assert_unharmed(&before);
}

#[test]
fn what_frees_space_works_on_a_full_disk() {
    let Some(mut node) = Node::started("frees", "limits: {minFreeBytes: 0}") else { return };
    let before = node.files();
    let [one, other, third] = ["one", "other", "third"].map(|name| {
        let reference = node.registry.push(name, "1", &image("name", name));
        node.lab.daemon.must(["pull", "-q", &reference]);
        reference
    });
    node.apply("ends", &third);
    node.lab.daemon.wait_mounted("ends");
    node.fill(0);
    node.lab.daemon.must(["rmi", &one]);
    node.fill(0);
    node.lab.daemon.must(["delete", "pod", "ends"]);
    node.lab.until("its end", || node.lab.daemon.ctl(["get", "pod", "ends"]).code.filter(|code| *code == 1));
    for left in [&other, &third] {
        node.lab.until(&format!("the end of {left}"), || {
            node.fill(0);
            node.lab.daemon.must(["gc", "--all"]);
            (!node.lab.daemon.ctl(["inspect", left]).ok).then_some(())
        });
    }
    node.assert_unharmed(&before);
    node.empty();
    node.lab.daemon.must(["pull", "-q", &one]);
    assert!(node.lab.daemon.terminate());
    let fsck = node.lab.daemon.fsck_offline();
    assert!(fsck.ok, "{}{}", fsck.stdout, fsck.stderr);
}

#[test]
fn a_daemon_starts_on_a_full_disk_and_frees_space() {
    let Some(mut node) = Node::started("starts", "limits: {minFreeBytes: 0}") else { return };
    let before = node.files();
    let reference = node.registry.push("unneeded", "1", &image("name", "unneeded"));
    node.lab.daemon.must(["pull", "-q", &reference]);
    node.fill(0);
    node.lab.daemon.kill();
    node.lab.daemon.start();
    assert_eq!(node.lab.read("runs", "volume", "name"), "content");
    node.lab.daemon.must(["rmi", &reference]);
    node.assert_unharmed(&before);
}

/// What pods are told while the disk is full is seen at once; what they are told from then on is on the disk too, as it always is.
#[test]
fn what_is_remembered_after_a_full_disk_survives_a_kill() {
    let Some(mut node) = Node::started("remembered", "limits: {minFreeBytes: 0}") else { return };
    node.fill(0);
    let absent = node.registry.reference("absent", "1");
    let told: Vec<String> = (0..40).map(|number| format!("told-{number}")).collect();
    for name in &told {
        node.lab.daemon.apply(&pod(name, &absent, "Never").json());
    }
    for name in &told {
        node.lab.until_event(name, "ErrImageNeverPull");
    }
    assert!(node.lab.daemon.log().contains("could not be written"), "the disk was full for events too");
    node.empty();
    node.apply("new", &node.registry.push("new", "1", &image("name", "new")));
    node.lab.daemon.wait_mounted("new");
    let stories =
        |node: &Node| told.iter().map(|name| node.lab.story(name)).chain([node.lab.story("new")]).collect::<Vec<_>>();
    node.lab.until_event("new", "Pulled");
    let before = stories(&node);
    node.lab.daemon.kill();
    node.lab.daemon.start();
    // Pods that wait are told again meanwhile.
    for (before, after) in before.iter().zip(stories(&node)) {
        assert!(after.starts_with(before), "{after:#?} do not begin with {before:#?}");
    }
}
