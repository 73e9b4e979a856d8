//! What has been asked of the daemon, and what it has acknowledged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use imagevol_api::oci::Digest;
use serde_json::{Value, json};

use crate::catalog::{Catalog, Fate, Tree};
use crate::mounts::{self, Mount};
use crate::node::Node;
use crate::random::Random;

/// Whether the daemon knows of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Its apply was acknowledged.
    There,
    /// Its delete was.
    Gone,
    /// The daemon was killed before it answered.
    Maybe,
}

/// What the daemon has said became of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    Nothing,
    Mounted,
    Failed,
}

/// A sub path that the container mounts.
#[derive(Debug, Clone)]
struct SubPath {
    /// Position in the container's `volumeMounts`.
    index: usize,
    path: String,
}

#[derive(Debug, Clone)]
struct Volume {
    name: String,
    reference: String,
    digest: Digest,
    policy: &'static str,
    tree: Tree,
    sub_paths: Vec<SubPath>,
}

/// What must be found at a place.
enum Content {
    Tree(Tree),
    File(Digest),
}

/// A pod as it was applied.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) name: String,
    volumes: Vec<Volume>,
    /// One of its images cannot be pulled.
    pub(crate) bad: bool,
    pub(crate) uid: Option<String>,
    pub(crate) presence: Presence,
    pub(crate) seen: Seen,
    /// Where its mounts were when it was acknowledged.
    mounts: BTreeMap<PathBuf, Mount>,
}

/// All pods that ever were.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) pods: BTreeMap<String, Pod>,
    made: usize,
}

// === impl Pod ===

impl Pod {
    pub(crate) fn manifest(&self) -> Value {
        let volume = |volume: &Volume| json!({"name": volume.name, "image": {"reference": volume.reference, "pullPolicy": volume.policy}});
        let volumes: Vec<Value> = self.volumes.iter().map(volume).collect();
        let whole =
            self.volumes.iter().map(|volume| json!({"name": volume.name, "mountPath": format!("/{}", volume.name)}));
        let mut mounts: Vec<(usize, Value)> = whole.enumerate().collect();
        for volume in &self.volumes {
            mounts.extend(volume.sub_paths.iter().map(|sub| {
                let at = format!("/sub/{}", sub.index);
                (sub.index, json!({"name": volume.name, "mountPath": at, "subPath": sub.path}))
            }));
        }
        mounts.sort_by_key(|(index, _)| *index);
        let mounts: Vec<Value> = mounts.into_iter().map(|(_, mount)| mount).collect();
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": self.name},
            "spec": {
                "containers": [{"name": "main", "image": "debian", "volumeMounts": mounts}],
                "volumes": volumes,
            },
        })
    }

    pub(crate) fn images(&self) -> impl Iterator<Item = &Digest> {
        self.volumes.iter().map(|volume| &volume.digest)
    }

    /// Whether all of it must be mounted, now and until it is deleted.
    pub(crate) fn is_promised(&self) -> bool {
        self.presence == Presence::There && self.seen == Seen::Mounted
    }

    /// Its directory below `kubelet/pods`.
    pub(crate) fn dir(&self, root: &Path) -> PathBuf {
        root.join("pods").join(self.uid.as_deref().unwrap())
    }

    /// Where it is mounted.
    pub(crate) fn places(&self, root: &Path) -> Vec<PathBuf> {
        self.contents(root).into_iter().map(|(at, _)| at).collect()
    }

    fn contents(&self, root: &Path) -> Vec<(PathBuf, Content)> {
        let dir = self.dir(root);
        let mut contents = Vec::new();
        for volume in &self.volumes {
            let at = dir.join("volumes/kubernetes.io~image").join(&volume.name);
            contents.push((at, Content::Tree(volume.tree.clone())));
            for sub in &volume.sub_paths {
                let at = dir.join("volume-subpaths").join(&volume.name).join("main").join(sub.index.to_string());
                contents.push((at, volume.content_of(&sub.path)));
            }
        }
        contents
    }

    /// Every byte through every mount.
    pub(crate) fn check_content(&self, root: &Path) {
        for (at, content) in self.contents(root) {
            match content {
                Content::Tree(tree) => assert_eq!(mounts::tree(&at), tree, "{}", at.display()),
                Content::File(digest) => {
                    let bytes = std::fs::read(&at).unwrap();
                    assert_eq!(imagevol_base::Digester::sha256(&bytes), digest, "{}", at.display());
                }
            }
        }
    }

    /// The mounts that were acknowledged are still the same ones, not others at their places.
    pub(crate) fn check_promise(&self, node: &Node) {
        let table = node.mounts();
        for (at, mount) in &self.mounts {
            assert_eq!(table.get(at), Some(mount), "pod {}: {}\n{}", self.name, at.display(), node.daemon.log());
        }
        self.check_content(&node.daemon.root_dir());
    }
}

// === impl Volume ===

impl Volume {
    fn content_of(&self, sub_path: &str) -> Content {
        if let Some(digest) = self.tree.get(sub_path) {
            return Content::File(digest.clone());
        }
        let below = self.tree.iter().filter_map(|(path, digest)| {
            Some((path.strip_prefix(sub_path)?.strip_prefix('/')?.to_owned(), digest.clone()))
        });
        Content::Tree(below.collect())
    }
}

// === impl World ===

impl World {
    /// A pod with a volume of each image, some with sub paths; it is not applied yet.
    pub(crate) fn make_pod(&mut self, random: &mut Random, catalog: &Catalog, images: &[usize]) -> Pod {
        let mut volumes: Vec<Volume> = Vec::new();
        for (number, image) in images.iter().enumerate() {
            let image = catalog.image(*image);
            let policy = if random.chance(70) { "IfNotPresent" } else { "Always" };
            volumes.push(Volume {
                name: format!("volume-{number}"),
                reference: image.reference.clone(),
                digest: image.digest.clone(),
                policy,
                tree: image.tree.clone(),
                sub_paths: Vec::new(),
            });
        }
        let mut index = volumes.len();
        for volume in &mut volumes {
            if !random.chance(40) {
                continue;
            }
            let files: Vec<&String> = volume.tree.keys().collect();
            let file = (*random.pick(&files).unwrap()).clone();
            let dir = file.rsplit_once('/').map(|(dir, _)| dir.to_owned());
            let path = if random.chance(50) { dir.unwrap_or(file) } else { file };
            volume.sub_paths.push(SubPath { index, path });
            index += 1;
        }
        let bad = images.iter().any(|image| catalog.image(*image).fate != Fate::Good);
        self.made += 1;
        Pod {
            name: format!("pod-{}", self.made),
            volumes,
            bad,
            uid: None,
            presence: Presence::Maybe,
            seen: Seen::Nothing,
            mounts: BTreeMap::new(),
        }
    }

    pub(crate) fn there(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values().filter(|pod| pod.presence == Presence::There)
    }

    pub(crate) fn promised(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values().filter(|pod| pod.is_promised())
    }

    pub(crate) fn apply(&mut self, node: &Node, pod: Pod) {
        let file = node.daemon.dir().join("applied.json");
        std::fs::write(&file, pod.manifest().to_string()).unwrap();
        let name = pod.name.clone();
        let (presence, seen, mounts) = (Presence::Maybe, Seen::Nothing, BTreeMap::new());
        let before = self.pods.insert(name.clone(), Pod { presence, seen, mounts, ..pod });
        let pod = self.pods.get_mut(&name).unwrap();
        pod.uid = before.and_then(|before| before.uid);
        if node.acknowledges(&["apply", "-f", file.to_str().unwrap()]) {
            pod.presence = Presence::There;
            pod.learn(node);
        }
    }

    pub(crate) fn delete(&mut self, node: &Node, name: &str) {
        let pod = self.pods.get_mut(name).unwrap();
        pod.presence = Presence::Maybe;
        if node.acknowledges(&["delete", "pod", name]) {
            pod.presence = Presence::Gone;
        }
    }

    /// A failed pod starts anew, if the daemon has come so far.
    pub(crate) fn retry(&mut self, node: &Node, name: &str) {
        let pod = self.pods.get_mut(name).unwrap();
        // Until it is seen to have failed once more, nothing is known of it.
        pod.seen = Seen::Nothing;
        if let Some(ran) = node.ask(["retry", "pod", name]) {
            assert!(ran.ok || ran.stderr.contains("has not failed"), "{}", ran.stderr);
        }
    }

    /// Asks what became of each pod of which nothing is known yet.
    pub(crate) fn look(&mut self, node: &Node) {
        let unseen = |pod: &&mut Pod| pod.presence == Presence::There && pod.seen == Seen::Nothing;
        self.pods.values_mut().filter(unseen).for_each(|pod| pod.look(node));
    }

    /// Whether something is still to come.
    pub(crate) fn is_waiting(&self) -> bool {
        self.there().any(|pod| pod.seen == Seen::Nothing)
    }

    /// After a restart: what was not acknowledged has happened or not, and what was must hold.
    pub(crate) fn resolve(&mut self, listed: &BTreeMap<String, Value>) {
        for pod in self.pods.values_mut() {
            let found = listed.get(&pod.name);
            match pod.presence {
                Presence::There => assert!(found.is_some(), "pod {} was applied and is not there", pod.name),
                Presence::Gone => assert!(found.is_none(), "pod {} was deleted and is there", pod.name),
                Presence::Maybe => pod.presence = if found.is_some() { Presence::There } else { Presence::Gone },
            }
            if let Some(found) = found {
                pod.uid = found["metadata"]["uid"].as_str().map(str::to_owned);
            }
        }
        let known = |name: &&String| self.pods.contains_key(*name);
        assert!(listed.keys().all(|name| known(&name)), "pods that nobody applied: {listed:?}");
    }
}

impl Pod {
    fn learn(&mut self, node: &Node) {
        if let Some(ran) = node.ask(["get", "pod", &self.name, "-o", "json"]).filter(|ran| ran.ok) {
            let pod: Value = serde_json::from_str(&ran.stdout).unwrap();
            self.uid = pod["metadata"]["uid"].as_str().map(str::to_owned);
        }
    }

    /// Once: does the daemon say that it is as it should become?
    fn look(&mut self, node: &Node) {
        let condition = if self.bad { "--for=failed" } else { "--for=mounted" };
        let Some(ran) = node.ask(["wait", "pod", &self.name, condition, "--timeout=0"]) else { return };
        if ran.ok && self.bad {
            self.seen = Seen::Failed;
        } else if ran.ok && self.uid.is_some() {
            self.seen = Seen::Mounted;
            self.remember_mounts(node);
        } else if !ran.ok {
            let failed = format!("pods/{} failed", self.name);
            assert!(!ran.stderr.contains(&failed), "{}\n{}", ran.stderr, node.daemon.log());
        }
    }

    /// What was said to be mounted is.
    fn remember_mounts(&mut self, node: &Node) {
        let table = node.mounts();
        for at in self.places(&node.daemon.root_dir()) {
            let mount = table.get(&at);
            let mount = mount.unwrap_or_else(|| panic!("not mounted: {}\n{}", at.display(), node.daemon.log()));
            self.mounts.insert(at, mount.clone());
        }
    }
}
