//! Who keeps images on the node, as collections of everything that nobody needs meet them, and what ends their need.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use imagevol_test_support::image::{Image, ImageBuilder, LayerBuilder};
use imagevol_test_support::kubelet::{Kubelet, KubeletPod, KubeletVolume, PluginWatcher};
use imagevol_test_support::registry::{FakeRegistry, Fault, Gate};
use serde_json::{Value, json};

use crate::lab::{Lab, image};
use crate::manifest::{Pod, documents, pod};

/// A node that keeps only what somebody needs, as soon as it is told to collect.
struct Node {
    lab: Lab,
    registry: FakeRegistry,
}

/// What a collection did, by reference.
#[derive(Debug)]
struct Collected {
    gone: BTreeSet<String>,
    stayed: BTreeMap<String, String>,
}

/// References with the reason why each stays.
type Kept<'k> = BTreeMap<&'k str, String>;

// === impl Node ===

impl Node {
    fn new(test: &str, config: &str) -> Option<Self> {
        let lab = Lab::new(test)?;
        let lists = lab.daemon.dir().join("prefetch");
        fs::create_dir(&lists).unwrap();
        let config = format!(
            "imageMinimumGCAge: 0s\nimageGCHighThresholdPercent: 100\npullFailurePolicy: Retry\nprefetchPath: {}\n{config}",
            lists.display()
        );
        let lab = lab.config(&config);
        let registry = lab.registry();
        Some(Self { lab, registry })
    }

    fn started(test: &str) -> Option<Self> {
        let mut node = Self::new(test, "")?;
        node.lab.daemon.start();
        Some(node)
    }

    /// `kill -9`, and a start.
    fn restart(&mut self) {
        self.lab.daemon.kill();
        self.lab.daemon.start();
    }

    fn push(&self, name: &str) -> String {
        self.registry.push(name, "1", &image("name", name))
    }

    fn pulled(&self, name: &str) -> String {
        let reference = self.push(name);
        self.lab.daemon.must(["pull", "--quiet", &reference]);
        reference
    }

    /// The list `models` names these items from now on, or is gone.
    fn list(&self, items: &[Value]) {
        let list = json!({
            "apiVersion": "imagevol.dev/v1alpha1", "kind": "ImagePrefetch", "metadata": {"name": "models"},
            "spec": {"images": items},
        });
        let dir = self.lab.daemon.dir();
        let (beside, path) = (dir.join("written"), dir.join("prefetch/models.json"));
        if items.is_empty() {
            return fs::remove_file(path).unwrap();
        }
        fs::write(&beside, list.to_string()).unwrap();
        fs::rename(beside, path).unwrap();
    }

    /// Waits until a list has brought an item so far.
    fn until_listed(&self, reference: &str, phase: &str) {
        self.lab.until(&format!("{phase} of {reference}"), || {
            let list = self.lab.daemon.json(["get", "prefetch"]);
            let item = list["items"].as_array()?.iter().find(|item| item["reference"] == reference)?;
            (item["phase"] == phase).then_some(())
        });
    }

    /// A request to the daemon's socket, as curl makes it: head and body at once, for a server that needs no body may close
    /// before a second part arrives, and its answer is lost then. The status.
    fn request(&self, method: &str, path: &str, body: &str) -> u16 {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        let mut stream = UnixStream::connect(self.lab.daemon.dir().join("run/imagevold.sock")).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// Another component of the node keeps an image for an hour.
    fn hold(&self, reference: &str) {
        let body = json!({"reference": reference, "leaseDurationSeconds": 3600});
        assert_eq!(self.request("PUT", "/references/backup/nightly", &body.to_string()), 200);
    }

    fn collect(&self) -> Collected {
        let report = self.lab.daemon.json(["gc", "--all"]);
        assert_eq!(report["failed"], json!([]));
        let items = |what: &str| report[what].as_array().unwrap().clone();
        let stayed =
            items("stayed").into_iter().map(|item| (tag_of(&item), item["because"].as_str().unwrap().to_owned()));
        Collected { gone: items("gone").iter().map(tag_of).collect(), stayed: stayed.collect() }
    }

    /// Collects until only these images are left; what went on the way is of `goes`. A collection tells only what it sees at its
    /// moment: what was used in the same second stays until the next.
    fn only(&self, kept: &Kept<'_>, goes: &[&str]) {
        let mut gone = BTreeSet::new();
        self.lab.until(&format!("the end of {goes:?} and of nothing but them"), || {
            let collected = self.collect();
            gone.extend(collected.gone);
            let lost: Vec<_> = gone.iter().filter(|reference| !goes.contains(&reference.as_str())).collect();
            assert!(lost.is_empty(), "{lost:?} went, though somebody needs them: {:?}", collected.stayed);
            let stayed: Kept<'_> = collected.stayed.iter().map(|(name, why)| (name.as_str(), why.clone())).collect();
            (stayed == *kept && gone.len() == goes.len()).then_some(())
        });
    }

    /// The daemon's answer, or nothing if it knows nothing of this name.
    fn why(&self, name: &str) -> Option<Value> {
        let ran = self.lab.daemon.ctl(["why", name, "-o", "json"]);
        assert!(ran.ok || ran.stderr.contains("NotFound"), "{}", ran.stderr);
        ran.ok.then(|| serde_json::from_str(&ran.stdout).unwrap())
    }

    /// Waits until `why` tells these holders, of whichever images the name leads to, and those who wait for one.
    fn until_held(&self, name: &str, holders: &[(&str, &str)]) {
        let expected: BTreeSet<_> =
            holders.iter().map(|(who, state)| ((*who).to_owned(), (*state).to_owned())).collect();
        let mut last = None;
        self.lab.until(&format!("{holders:?} of {name}"), || {
            let found = self.why(name).map(|report| holders_of(&report))?;
            let is_so = found == expected;
            last = Some(found);
            is_so.then_some(())
        });
        assert_eq!(last, Some(expected));
    }

    fn delete_pod(&self, name: &str) {
        self.lab.daemon.must(["delete", "pod", name]);
    }
}

/// The name with the tag, of which each image of these tests has one.
fn tag_of(image: &Value) -> String {
    let names = image["names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap());
    names.filter(|name| !name.contains('@')).collect::<Vec<_>>().join(" ")
}

/// Names and states of those who keep images, or wait for one.
fn holders_of(report: &Value) -> BTreeSet<(String, String)> {
    let of = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let images = of(&report["images"]).into_iter().flat_map(|image| of(&image["holders"]));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let all = images.chain(of(&report["wanted"]));
    all.map(|holder| (text(&holder["name"]), text(&holder["state"]))).collect()
}

/// Whole seconds for which the kernel has run: ages are counted in them.
fn uptime() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap();
    text.split('.').next().unwrap().parse().unwrap()
}

fn item(reference: &str) -> Value {
    json!({"reference": reference})
}

/// Two layers, of which other images may share the first.
fn layered(shared: &str, own: &str) -> Image {
    let [shared, own] = [shared, own].map(|name| LayerBuilder::new().file(name, name).gzip());
    ImageBuilder::new().layer(shared).layer(own).build()
}

/// One image for each who may need one, and the reasons that a collection tells.
struct Needed {
    listed: String,
    also_listed: String,
    pinned: String,
    external: String,
    mounted: String,
    asked: String,
    unneeded: String,
}

impl Needed {
    fn brought(node: &Node) -> Self {
        let needed = Self {
            listed: node.push("listed"),
            also_listed: node.push("also-listed"),
            pinned: node.pulled("pinned"),
            external: node.pulled("external"),
            mounted: node.push("mounted"),
            asked: node.pulled("asked"),
            unneeded: node.pulled("unneeded"),
        };
        node.list(&[item(&needed.listed), item(&needed.also_listed)]);
        node.lab.daemon.must(["pin", &needed.pinned]);
        node.hold(&needed.external);
        node.lab.daemon.apply(&pod("mounted", &needed.mounted, "IfNotPresent").json());
        node.lab.daemon.wait_mounted("mounted");
        node.until_listed(&needed.listed, "Present");
        node.until_listed(&needed.also_listed, "Present");
        needed
    }

    fn reasons(&self) -> Kept<'_> {
        let used = |who: &str| format!("used by {who}");
        let list = used("prefetch list models");
        [
            (&self.listed, list.clone()),
            (&self.also_listed, list),
            (&self.pinned, format!("pinned by {}", self.pinned)),
            (&self.external, used("backup nightly")),
            (&self.mounted, used("pod default/mounted volume volume")),
            (&self.asked, used("pod default/asks volume volume")),
        ]
        .into_iter()
        .map(|(reference, why)| (reference.as_str(), why))
        .collect()
    }
}

#[test]
fn what_somebody_needs_stays_until_nobody_does() {
    let Some(mut node) = Node::started("lifetimes") else { return };
    let needed = Needed::brought(&node);
    let gate = Gate::new();
    // A pod that asks the registry about an image that is here, and one whose image is not.
    node.registry.faults().always("/asked/manifests/", Fault::Hold(gate.clone()));
    node.registry.faults().always("/waits/manifests/", Fault::Hold(gate.clone()));
    let waits = pod("waits", &node.push("waits"), "IfNotPresent").value();
    node.lab.daemon.apply(&documents([&pod("asks", &needed.asked, "Always").value(), &waits]));
    node.lab.run(gate.arrived(2));
    let mut kept = needed.reasons();
    node.only(&kept, &[&needed.unneeded]);
    node.restart();
    node.lab.run(gate.arrived(4));
    node.only(&kept, &[]);
    gate.open();
    for pod in ["asks", "waits"] {
        node.lab.daemon.wait_mounted(pod);
        assert_eq!(node.lab.read(pod, "volume", "name"), if pod == "asks" { "asked" } else { pod });
    }
    let waits = node.registry.reference("waits", "1");
    kept.insert(&waits, "used by pod default/waits volume volume".to_owned());
    node.only(&kept, &[]);
    needs_end(&mut node, &needed, &mut kept);
}

/// Each need ends, and its image alone goes, whenever the daemon is killed.
fn needs_end<'k>(node: &mut Node, needed: &'k Needed, kept: &mut Kept<'k>) {
    let mut ends = |node: &mut Node, reference: &'k str| {
        kept.remove(reference);
        node.only(kept, &[reference]);
        node.restart();
        node.only(kept, &[]);
    };
    node.list(&[item(&needed.also_listed)]);
    ends(node, &needed.listed);
    node.lab.daemon.kill();
    node.list(&[]);
    node.lab.daemon.start();
    ends(node, &needed.also_listed);
    node.lab.daemon.must(["unpin", &needed.pinned]);
    ends(node, &needed.pinned);
    assert_eq!(node.request("DELETE", "/references/backup/nightly", ""), 200);
    ends(node, &needed.external);
    node.delete_pod("asks");
    ends(node, &needed.asked);
    assert_eq!(node.lab.read("mounted", "volume", "name"), "mounted", "all the time");
    node.delete_pod("mounted");
    ends(node, &needed.mounted);
}

#[test]
fn one_need_of_several_is_enough() {
    let Some(mut node) = Node::started("lifetimes_several") else { return };
    let reference = node.pulled("models");
    let pattern = format!("{}/mod*", node.registry.host());
    node.list(&[item(&reference)]);
    node.until_listed(&reference, "Present");
    node.hold(&reference);
    node.lab.daemon.must(["pin", &pattern]);
    let kept = |why: &str| Kept::from([(reference.as_str(), why.to_owned())]);
    node.only(&kept("used by backup nightly, prefetch list models"), &[]);
    node.list(&[]);
    node.only(&kept("used by backup nightly"), &[]);
    assert_eq!(node.request("DELETE", "/references/backup/nightly", ""), 200);
    assert_eq!(node.request("DELETE", "/references/backup/nightly", ""), 404);
    node.restart();
    node.only(&kept(&format!("pinned by {pattern}")), &[]);
    node.lab.daemon.must(["unpin", &pattern]);
    node.only(&Kept::new(), &[&reference]);
}

#[test]
fn a_collection_leaves_the_layers_that_a_pull_counts_on() {
    let Some(node) = Node::started("lifetimes_layers") else { return };
    let (old, new) = (layered("shared", "old"), layered("shared", "new"));
    let [old_name, new_name] =
        [("old", &old), ("new", &new)].map(|(tag, image)| node.registry.push("data", tag, image));
    node.lab.daemon.must(["pull", "--quiet", &old_name]);
    let gate = Gate::new();
    node.registry.faults().always(&format!("/blobs/{}", new.layers[1].digest), Fault::Hold(gate.clone()));
    node.lab.daemon.apply(&pod("waits", &new_name, "IfNotPresent").json());
    node.lab.run(gate.arrived(1));
    node.only(&Kept::new(), &[&old_name]);
    gate.open();
    node.lab.daemon.wait_mounted("waits");
    assert_eq!(["shared", "new"].map(|file| node.lab.read("waits", "volume", file)), ["shared", "new"]);
    assert_eq!(node.registry.gets(&format!("/blobs/{}", old.layers[0].digest)), 1, "{:?}", node.registry.requests());
}

#[test]
fn a_prefetch_by_command_ends_with_the_first_pod() {
    let Some(mut node) = Node::started("lifetimes_prefetch") else { return };
    let reference = node.push("models");
    node.lab.daemon.must(["prefetch", "--quiet", &reference]);
    node.until_held(&reference, &[("prefetch command", "Held")]);
    node.restart();
    node.only(&Kept::from([(reference.as_str(), "used by prefetch command".to_owned())]), &[]);
    node.lab.daemon.apply(&pod("uses", &reference, "IfNotPresent").json());
    node.lab.daemon.wait_mounted("uses");
    let by_pod = "pod default/uses volume volume";
    node.until_held(&reference, &[(by_pod, "Mounted")]);
    assert_eq!(node.lab.daemon.json(["get", "prefetch"])["items"], json!([]));
    node.restart();
    node.only(&Kept::from([(reference.as_str(), format!("used by {by_pod}"))]), &[]);
    node.delete_pod("uses");
    node.only(&Kept::new(), &[&reference]);
}

#[test]
fn what_a_list_keeps_for_one_pod_does_not_come_back() {
    let Some(mut node) = Node::started("lifetimes_launch") else { return };
    let reference = node.push("launch");
    node.list(&[json!({"reference": reference, "keepUnusedFor": "48h"})]);
    node.until_listed(&reference, "Present");
    node.restart();
    node.only(&Kept::from([(reference.as_str(), "used by prefetch list models".to_owned())]), &[]);
    node.lab.daemon.apply(&pod("uses", &reference, "IfNotPresent").json());
    node.lab.daemon.wait_mounted("uses");
    node.until_held(&reference, &[("pod default/uses volume volume", "Mounted")]);
    node.delete_pod("uses");
    node.only(&Kept::new(), &[&reference]);
    node.registry.clear_requests();
    for _ in 0..2 {
        node.restart();
        node.until_listed(&reference, "Ended");
        node.only(&Kept::new(), &[]);
    }
    assert_eq!(node.registry.requests().len(), 0, "{:?}", node.registry.requests());
}

#[test]
fn a_volume_by_csi_keeps_its_image() {
    let Some(mut node) = Node::new("lifetimes_csi", "csi: {}") else { return };
    let root = node.lab.daemon.root_dir();
    let mut watcher = node.lab.run(async { PluginWatcher::new(&root) });
    node.lab.daemon.start();
    let kubelet = Kubelet::new(&root, node.lab.run(watcher.register()).unwrap().driver);
    let (reference, pod) = (node.push("models"), KubeletPod::new("uid-1"));
    let volume = KubeletVolume::inline("models", &reference);
    node.lab.run(kubelet.set_up(&pod, &volume)).unwrap();
    node.only(&Kept::from([(reference.as_str(), "used by pod default/pod-uid-1 volume models".to_owned())]), &[]);
    node.restart();
    // What the kubelet said of the pod is asked for again with its next call; its uid is written.
    node.only(&Kept::from([(reference.as_str(), "used by pod uid-1 CSI volume models".to_owned())]), &[]);
    assert_eq!(fs::read_to_string(volume.target(&root, &pod).join("name")).unwrap(), "models");
    node.lab.run(watcher.register()).unwrap();
    node.lab.run(kubelet.delete(&pod.uid, &volume.name));
    node.only(&Kept::new(), &[&reference]);
}

#[test]
fn why_tells_who_waits() {
    let Some(mut node) = Node::started("lifetimes_waiting") else { return };
    let (pulled, absent) = (node.push("pulled"), node.registry.reference("absent", "1"));
    let gate = Gate::new();
    node.registry.faults().always("/pulled/blobs/", Fault::Hold(gate.clone()));
    let absent_pod = pod("wants", &absent, "IfNotPresent").value();
    node.lab.daemon.apply(&documents([&pod("pulls", &pulled, "IfNotPresent").value(), &absent_pod]));
    node.lab.run(gate.arrived(1));
    for _ in 0..2 {
        node.until_held(&pulled, &[("pod default/pulls volume volume", "Pulling")]);
        node.lab.until_waiting("wants", "ImagePullBackOff");
        node.until_held(&absent, &[("pod default/wants volume volume", "Wanted")]);
        node.only(&Kept::new(), &[]);
        node.restart();
    }
    assert!(node.why("localhost:9/nobody/asked:1").is_none());
    gate.open();
    node.lab.daemon.wait_mounted("pulls");
    node.until_held(&pulled, &[("pod default/pulls volume volume", "Mounted")]);
}

#[test]
fn why_tells_who_keeps_an_image_by_its_name_and_by_its_layers() {
    let Some(mut node) = Node::started("lifetimes_why") else { return };
    let (first, second) = (layered("shared", "first"), layered("shared", "second"));
    let [one, two] =
        [("first", &first), ("second", &second)].map(|(tag, image)| node.registry.push("data", tag, image));
    node.lab.daemon.must(["pull", "--quiet", &two]);
    let free = node.why(&two).unwrap();
    assert_eq!((&free["images"][0]["holders"], &free["images"][0]["mounted"]), (&json!([]), &json!(false)), "{free}");
    assert!(free["images"][0]["notBefore"].is_string(), "{free}");
    node.list(&[item(&two)]);
    node.until_listed(&two, "Present");
    node.hold(&two);
    let both = Pod::new("both").volume("a", &one, "IfNotPresent").volume("b", &one, "IfNotPresent");
    node.lab.daemon.apply(&both.mount("a", "/a").mount("b", "/b").json());
    node.lab.daemon.wait_mounted("both");
    let of_one = [("pod default/both volume a", "Mounted"), ("pod default/both volume b", "Mounted")];
    let of_two = [("prefetch list models", "Held"), ("backup nightly", "Held")];
    let of_both = [of_one, of_two].concat();
    for _ in 0..2 {
        for name in [&one, &first.digest.to_string(), &first.layers[1].digest.to_string()] {
            node.until_held(name, &of_one);
        }
        for name in [&two, &second.digest.to_string(), &second.diff_ids[1].to_string()] {
            node.until_held(name, &of_two);
        }
        for shared in [&first.layers[0].digest, &first.diff_ids[0]] {
            node.until_held(&shared.to_string(), &of_both);
            let report = node.why(&shared.to_string()).unwrap();
            assert_eq!((&report["content"]["kind"], report["images"].as_array().unwrap().len()), (&json!("layer"), 2));
        }
        node.restart();
    }
    let report = node.why(&one).unwrap();
    let image = &report["images"][0];
    assert_eq!((&image["mounted"], &image["notBefore"]), (&json!(true), &Value::Null), "{report}");
}

/// The first collection of a start takes everything old: a pod that came meanwhile must have said before that it needs its image.
#[test]
fn a_pod_that_comes_while_no_daemon_runs_finds_its_image() {
    let Some(node) = Node::started("lifetimes_down") else { return };
    let [never, present, unneeded] = ["never", "present", "unneeded"].map(|name| node.pulled(name));
    let pulled = uptime();
    node.lab.until("time", || (uptime() > pulled + 2).then_some(()));
    let Node { mut lab, registry } = node;
    lab.daemon.kill();
    // More rows than a collection waits for by chance.
    let many = (0..50).fold(pod("present", &present, "IfNotPresent"), |pod, volume| {
        pod.volume(&format!("v{volume}"), &present, "IfNotPresent")
    });
    let pods = [pod("never", &never, "Never"), many].map(|pod| pod.value());
    lab.put_manifest("pods.yaml", &documents(&pods));
    registry.clear_requests();
    let mut node = Node { lab: lab.config("imageMaximumGCAge: 1s"), registry };
    node.lab.daemon.start();
    for name in ["never", "present"] {
        node.lab.until("the pods", || node.lab.daemon.ctl(["get", "pod", name]).ok.then_some(()));
        node.lab.daemon.wait_mounted(name);
        assert_eq!(node.lab.read(name, "volume", "name"), name);
    }
    node.lab.until("the collection", || node.why(&unneeded).is_none().then_some(()));
    assert!(node.why(&never).is_some() && node.why(&present).is_some());
    assert_eq!(node.registry.requests().len(), 0, "{:?}", node.registry.requests());
}
