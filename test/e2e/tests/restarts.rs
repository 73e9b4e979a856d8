//! Kubelet, driver and containerd die in every order while pods read and while a pull runs; pods come and go while the driver is away;
//! the node boots anew.
//!
//! These tests take the node from under everything else on it, so they are a program of their own, and run one at a time.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: whatever fails here fails the test"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use imagevol_test_e2e::manifests::{csi_with, pod, pod_with};
use imagevol_test_e2e::{Cluster, Driver, Event, LoopbackRegistry, Namespace, SOON, images, until};
use imagevol_test_support::image::Image;
use imagevol_test_support::registry::{Fault, Gate};
use rstest::rstest;
use serde_json::{Value, json};

/// Held by the test that runs.
static ALONE: Mutex<()> = Mutex::new(());
/// Where `deploy/` puts the driver.
const NAMESPACE: &str = "imagevol-system";
const DAEMON_SET: &str = "daemonset/imagevol-node";
const DRIVER: &str = "csi.imagevol.dev";
/// No node has this label.
const AWAY: &str = "imagevol.dev/e2e-away";
/// What a reader prints when the volume does not say any more what it said at first.
const LOST: &str = "LOST";
/// Where the unfinished pull stands.
const STALL: u64 = 1 << 16;

/// What can be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Kubelet,
    Containerd,
    Driver,
}

use Part::{Containerd, Driver as Imagevold, Kubelet};

/// The node, for one test alone.
struct Node {
    cluster: Cluster,
    driver: Driver,
    _alone: MutexGuard<'static, ()>,
}

/// Pods that read, and one that waits for its image.
struct World<'a> {
    node: &'a Node,
    namespace: Namespace,
    registry: LoopbackRegistry,
    site: Image,
    model: Image,
    gate: Gate,
    /// The requests for the readers' image, and the events about each reader, before anything was killed.
    asked: usize,
    told: Vec<Vec<Event>>,
}

/// Keeps the driver off the node.
struct Away<'a>(&'a Node);

// === impl Node ===

impl Node {
    fn find(test: &str) -> Option<Self> {
        let cluster = Cluster::find_local(test)?;
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let driver = cluster.driver(&cluster.node());
        let node = Self { cluster, driver, _alone: alone };
        // A new pod has no crashes to be held back for, from the test before.
        node.replace_driver();
        Some(node)
    }

    fn root(&self) -> &Path {
        self.cluster.root()
    }

    fn local_up(&self, words: &[&str]) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../hack/local-up-cluster.sh");
        let done = Command::new(script).args(words).arg("--root").arg(self.root()).output().unwrap();
        assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    fn kill(&self, part: Part) {
        match part {
            Kubelet => self.local_up(&["kill", "kubelet"]),
            Containerd => self.local_up(&["kill", "containerd"]),
            Imagevold => {
                let pid = self.driver_process().expect("a driver that runs").to_string();
                assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
                until("the end of the driver", SOON, || match self.driver_process() {
                    Some(other) if other.to_string() == pid => Err(pid.clone()),
                    _ => Ok(()),
                });
            }
        }
    }

    /// The kubelet starts the driver again by itself.
    fn start(&self, part: Part) {
        match part {
            Kubelet => self.local_up(&["start", "kubelet"]),
            Containerd => self.local_up(&["start", "containerd"]),
            Imagevold => {}
        }
    }

    /// Until the driver answers, and the kubelet knows it.
    fn await_driver(&self) {
        self.driver.await_ready();
        until("a driver that answers", SOON, || {
            let asked = self.driver.ctl(&["get", "pulls"]);
            if asked.ok { Ok(()) } else { Err(asked.stderr) }
        });
        until("the driver's registration", SOON, || {
            let node = self.cluster.json(&["get", "csinode", &self.cluster.node()]);
            let drivers = node["spec"]["drivers"].as_array().cloned().unwrap_or_default();
            if drivers.iter().any(|driver| driver["name"] == DRIVER) { Ok(()) } else { Err(node) }
        });
    }

    fn replace_driver(&self) {
        let pod = self.driver.pod();
        self.cluster.must(&["delete", "pod", "-n", NAMESPACE, &pod, "--timeout=60s"]);
        until("another pod of the driver", SOON, || self.driver_process().map(drop).ok_or("none"));
        self.await_driver();
    }

    /// The driver's process: it sees this cluster's kubelet directory mounted, from a mount namespace of its own.
    fn driver_process(&self) -> Option<u32> {
        let kubelet = self.root().join("var/lib/kubelet");
        let host = std::fs::read_link("/proc/self/ns/mnt").unwrap();
        let numbers =
            std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
        numbers.filter_map(|name| name.parse().ok()).find(|pid: &u32| {
            let proc = PathBuf::from(format!("/proc/{pid}"));
            // A process may end while it is looked at.
            let is_driver = std::fs::read_to_string(proc.join("comm")).is_ok_and(|name| name.trim() == "imagevold");
            let elsewhere = std::fs::read_link(proc.join("ns/mnt")).is_ok_and(|namespace| namespace != host);
            is_driver && elsewhere && mount_points(&proc.join("mountinfo")).contains(&kubelet)
        })
    }

    fn erofs_mounts(&self) -> Vec<PathBuf> {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let ours = table.lines().filter(|line| line.contains(" - erofs ")).filter_map(mount_point);
        ours.filter(|point| point.starts_with(self.root())).collect()
    }

    /// As after a boot: no process of a pod, no mount of an image, nothing in the run directory.
    fn reboot(&self) {
        self.local_up(&["stop", "kubelet"]);
        let ctr = |words: &[&str]| {
            let mut ctr = Command::new("ctr");
            ctr.arg("--address").arg(self.root().join("containerd/containerd.sock")).args(["--namespace", "k8s.io"]);
            ctr.args(words).output().expect("run ctr")
        };
        for task in String::from_utf8(ctr(&["task", "ls", "-q"]).stdout).unwrap().lines() {
            ctr(&["task", "kill", "-s", "KILL", task]);
        }
        until("the end of the driver", SOON, || self.driver_process().map_or(Ok(()), Err));
        self.kill(Containerd);
        for mount in self.erofs_mounts().iter().rev() {
            assert!(Command::new("umount").arg(mount).status().unwrap().success(), "{}", mount.display());
        }
        std::fs::remove_dir_all(self.root().join("run/imagevol")).unwrap();
        self.start(Containerd);
        self.start(Kubelet);
        until("a driver after the boot", SOON, || self.driver_process().map(drop).ok_or("none"));
        self.await_driver();
    }

    fn patch_selector(&self, value: &Value) {
        let patch = json!({ "spec": { "template": { "spec": { "nodeSelector": { AWAY: value } } } } }).to_string();
        self.cluster.must(&["patch", "-n", NAMESPACE, DAEMON_SET, "--type=merge", "-p", &patch]);
    }
}

// === impl Away ===

impl<'a> Away<'a> {
    fn new(node: &'a Node) -> Self {
        let away = Self(node);
        node.patch_selector(&json!("true"));
        until("the end of the driver", SOON, || node.driver_process().map_or(Ok(()), Err));
        away
    }
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        self.0.patch_selector(&Value::Null);
    }
}

// === impl World ===

impl<'a> World<'a> {
    /// Two pods that read, one of them a sub path.
    fn new(node: &'a Node, name: &str) -> Self {
        let (namespace, registry, gate) = (node.cluster.namespace(name), LoopbackRegistry::start(), Gate::new());
        let site = images::site(name);
        // Of this run alone: what an earlier one has pulled is still on the node.
        let model = images::model(&format!("{name} {} ", std::process::id()).repeat(1 << 16));
        let reference = registry.push("e2e/site", "v1", &site);
        let mut world = Self { node, namespace, registry, site, model, gate, asked: 0, told: Vec::new() };
        world.namespace.run(&reader(
            &node.cluster,
            "whole",
            &reference,
            &json!({ "mountPath": "/site" }),
            "srv/www/page.html",
        ));
        let sub_path = json!({ "mountPath": "/site", "subPath": "srv/www" });
        world.namespace.run(&reader(&node.cluster, "part", &reference, &sub_path, "page.html"));
        world.asked = world.registry.gets("e2e/site");
        world.told = world.pull_events();
        world
    }

    /// Begins a pull that does not end before the gate is open.
    fn begin_pull(&self) {
        let reference = self.registry.push("e2e/model", "v1", &self.model);
        let blob = self.model.layers.first().unwrap().digest.to_string();
        self.registry.faults().always(&blob, Fault::StallAt(STALL, self.gate.clone()));
        self.namespace.apply(&pod(&self.node.cluster, "slow", &[always("model", &reference)]));
        self.registry.await_arrivals(&self.gate, 1, SOON);
    }

    fn pull_events(&self) -> Vec<Vec<Event>> {
        let of_pulls = |event: &Event| ["Pulling", "Pulled", "Failed", "BackOff"].contains(&event.reason.as_str());
        ["whole", "part"].map(|pod| self.namespace.events(pod).into_iter().filter(of_pulls).collect()).to_vec()
    }

    /// The readers never saw anything else than at first, run in the same containers, and nothing was asked or told again.
    fn readers_noticed_nothing(&self) {
        for name in ["whole", "part"] {
            let log = self.namespace.must(&["logs", name]);
            assert!(!log.contains(LOST), "{name}: {log}");
            let pod = self.namespace.pod(name);
            assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0, "{pod:#}");
        }
        self.readers_read();
        assert_eq!(self.pull_events(), self.told);
    }

    fn readers_read(&self) {
        let page = "/site/srv/www/page.html";
        assert_eq!(self.namespace.read("whole", page), self.namespace.read("part", "/site/page.html"));
        assert_eq!(self.registry.gets("e2e/site"), self.asked, "{:#?}", self.registry.requests());
    }

    /// The pull ends, once; it was begun at most once more for each life of the daemon.
    fn pull_ends(&self, lives: usize) {
        self.gate.open();
        self.namespace.await_ready("slow");
        let of_image = |reason: &str| -> u64 {
            let events = self.namespace.events("slow").into_iter();
            let of_image = events.filter(|event| event.reason == reason && event.message.contains("e2e/model"));
            of_image.map(|event| event.count).sum()
        };
        self.namespace.await_event("slow", "Pulled", "e2e/model");
        let begun = of_image("Pulling");
        assert!((1..=lives as u64).contains(&begun), "{begun} in {lives}: {:#?}", self.namespace.events("slow"));
        assert_eq!(of_image("Pulled"), 1, "{:#?}", self.namespace.events("slow"));
        let blob = self.model.layers.first().unwrap().digest.to_string();
        let fetched = self.registry.gets(&blob);
        assert!((1..=lives).contains(&fetched), "{fetched} in {lives}: {:#?}", self.registry.requests());
    }

    /// After the deletion of every pod nothing is left of them: no mount, no directory, no row, no staged image.
    fn ends(self) {
        let pods = self.namespace.json(&["get", "pods"]);
        let uids: Vec<_> = pods["items"].as_array().unwrap().iter().map(uid).collect();
        self.namespace.must(&["delete", "pod", "--all", "--timeout=120s"]);
        self.is_clear(&uids);
        let staged = [&self.site, &self.model].map(|image| {
            self.node.root().join("run/imagevol/staging").join(image.digest.to_string().trim_start_matches("sha256:"))
        });
        until("unused images are not staged", SOON, || {
            let mounts = self.node.erofs_mounts();
            if staged.iter().any(|staged| mounts.contains(staged)) { Err(mounts) } else { Ok(()) }
        });
        self.node.driver.ctl(&["fsck"]).must(&["fsck"]);
    }

    fn is_clear(&self, uids: &[String]) {
        for uid in uids {
            let dir = self.node.root().join("var/lib/kubelet/pods").join(uid);
            until("the pod's directory goes", SOON, || if dir.exists() { Err(&dir) } else { Ok(()) });
            let mounts = self.node.erofs_mounts();
            assert!(!mounts.iter().any(|mount| mount.starts_with(&dir)), "{mounts:#?}");
            until("the pod's rows go", SOON, || {
                let volumes = self.node.driver.volumes(uid);
                if volumes.is_empty() { Ok(()) } else { Err(volumes) }
            });
        }
    }
}

/// A pod that reads a file over and over, and says when it is not what it was.
fn reader(cluster: &Cluster, name: &str, reference: &str, mount: &Value, file: &str) -> Value {
    let mut mount = mount.clone();
    mount["name"] = json!("site");
    let mut pod = pod_with(cluster, name, &[always("site", reference)], &[mount]);
    let script = format!(
        "first=$(cat /site/{file}) || echo {LOST} at first
         while usleep 50000; do [ \"$(cat /site/{file} 2>&1)\" = \"$first\" ] || echo {LOST}; done"
    );
    pod["spec"]["containers"][0]["command"] = json!(["sh", "-c", script]);
    pod
}

/// A volume whose image is asked for at each start of a pod, and never for one that runs.
fn always(name: &str, reference: &str) -> Value {
    csi_with(name, &json!({ "reference": reference, "pullPolicy": "Always" }))
}

fn uid(pod: &Value) -> String {
    pod["metadata"]["uid"].as_str().unwrap().to_owned()
}

fn mount_point(line: &str) -> Option<PathBuf> {
    line.split(' ').nth(4).map(PathBuf::from)
}

/// Empty if the process has ended.
fn mount_points(table: &Path) -> Vec<PathBuf> {
    std::fs::read_to_string(table).unwrap_or_default().lines().filter_map(mount_point).collect()
}

#[rstest]
#[case::kubelet_driver_containerd("kdc", [Kubelet, Imagevold, Containerd])]
#[case::kubelet_containerd_driver("kcd", [Kubelet, Containerd, Imagevold])]
#[case::driver_kubelet_containerd("dkc", [Imagevold, Kubelet, Containerd])]
#[case::driver_containerd_kubelet("dck", [Imagevold, Containerd, Kubelet])]
#[case::containerd_kubelet_driver("ckd", [Containerd, Kubelet, Imagevold])]
#[case::containerd_driver_kubelet("cdk", [Containerd, Imagevold, Kubelet])]
fn one_dies_after_the_other(#[case] name: &str, #[case] order: [Part; 3]) {
    let Some(node) = Node::find(&format!("one_dies_after_the_other {name}")) else { return };
    let world = World::new(&node, name);
    world.begin_pull();
    for part in order {
        node.kill(part);
        node.start(part);
    }
    node.await_driver();
    world.pull_ends(2);
    world.readers_noticed_nothing();
    world.ends();
}

/// What was deleted while nobody was there to see it goes as well, and what came is served. (Without containerd a kubelet ends at once,
/// so there is only one order to start them in.)
#[test]
fn all_die_at_once() {
    let Some(node) = Node::find("all_die_at_once") else { return };
    let world = World::new(&node, "all");
    world.begin_pull();
    let reference = world.registry.push("e2e/late", "v1", &images::site("late"));
    let gone = world.namespace.run(&pod(&node.cluster, "gone", &[always("site", &reference)]));
    for part in [Kubelet, Imagevold, Containerd] {
        node.kill(part);
    }
    world.namespace.must(&["delete", "pod", "gone", "--force", "--grace-period=0", "--wait=false"]);
    world.namespace.apply(&pod(&node.cluster, "late", &[always("site", &reference)]));
    node.start(Containerd);
    node.start(Kubelet);
    until("the driver runs again", SOON, || node.driver_process().map(drop).ok_or("none"));
    node.await_driver();
    world.namespace.await_ready("late");
    world.is_clear(&[gone]);
    world.pull_ends(2);
    world.readers_noticed_nothing();
    world.ends();
}

/// An upgrade that takes its time: pods are made and deleted meanwhile.
#[test]
fn pods_come_and_go_while_the_driver_is_away() {
    let Some(node) = Node::find("pods_come_and_go_while_the_driver_is_away") else { return };
    let world = World::new(&node, "away");
    world.begin_pull();
    let reference = world.registry.push("e2e/late", "v1", &images::site("late"));
    let gone = world.namespace.run(&pod(&node.cluster, "gone", &[always("site", &reference)]));
    let away = Away::new(&node);
    world.namespace.must(&["delete", "pod", "gone", "--wait=false"]);
    world.namespace.apply(&pod(&node.cluster, "late", &[always("site", &reference)]));
    world.namespace.await_event("late", "FailedMount", DRIVER);
    world.readers_noticed_nothing();
    node.kill(Kubelet);
    node.start(Kubelet);
    drop(away);
    until("the driver runs again", SOON, || node.driver_process().map(drop).ok_or("none"));
    node.await_driver();
    world.namespace.await_ready("late");
    until("the deleted pod is gone", SOON, || {
        let found = world.namespace.kubectl(&["get", "pod", "gone"]);
        if found.ok { Err(found.stdout) } else { Ok(()) }
    });
    world.is_clear(&[gone]);
    world.pull_ends(2);
    world.readers_noticed_nothing();
    world.ends();
}

/// Containers run anew, with the same images as before: nobody is asked.
#[test]
fn a_boot_mounts_again_what_was_there() {
    let Some(node) = Node::find("a_boot_mounts_again_what_was_there") else { return };
    let world = World::new(&node, "boot");
    world.begin_pull();
    node.reboot();
    for name in ["whole", "part"] {
        until("a container of after the boot", SOON, || {
            let status = world.namespace.pod(name)["status"]["containerStatuses"][0].clone();
            if status["restartCount"] == 1 && status["ready"] == true { Ok(()) } else { Err(status) }
        });
    }
    world.readers_read();
    world.pull_ends(2);
    world.ends();
}
