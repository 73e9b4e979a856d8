//! The files of a directory as one set of objects: whoever comes first in the order of names owns a name.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::Arc;

use imagevol_api::corev1::{Pod, Secret};
use imagevol_api::names::PodUid;

use super::load::Loaded;

/// What the manifest directory holds.
#[derive(Debug, Clone, Default)]
pub struct Manifests {
    /// Pods by UID.
    pub pods: BTreeMap<PodUid, ManifestPod>,
    /// Secrets by namespace and name.
    pub(crate) secrets: BTreeMap<ObjectName, HeldSecret>,
    /// What is wrong with which file, by file name; whoever has a problem keeps its last good content.
    pub problems: Vec<Problem>,
    /// Whether the whole directory has been read once.
    pub ready: bool,
}

/// A secret that stays out of logs.
#[derive(Clone)]
pub(crate) struct HeldSecret(pub(crate) Arc<Secret>);

/// A pod and the file that it comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct ManifestPod {
    /// Name of the file in the manifest directory, safe to show.
    pub file: Arc<str>,
    /// With defaults and identity, without status.
    pub pod: Arc<Pod>,
}

/// Why a file, or an object of it, is not used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Name of the file in the manifest directory, safe to show; empty for the directory itself.
    pub file: String,
    /// What is wrong.
    pub message: String,
}

/// Namespace and name.
pub(crate) type ObjectName = (String, String);
/// Kind as kubectl writes it, namespace and name.
pub(crate) type ObjectKey = (&'static str, ObjectName);

/// One file, for [`merge`].
pub(super) struct FileContent<'a> {
    /// Safe to show.
    pub(super) name: Arc<str>,
    pub(super) objects: &'a [Loaded],
    pub(super) problem: Option<&'a str>,
}

/// Puts the files together, in their order.
pub(super) fn merge<'a>(files: impl Iterator<Item = FileContent<'a>>) -> Manifests {
    let mut merged = Manifests::default();
    let mut owners = BTreeMap::new();
    for file in files {
        let refuse = |message| Problem { file: file.name.to_string(), message };
        merged.problems.extend(file.problem.map(|message| refuse(message.to_owned())));
        for object in file.objects {
            match owners.entry(object.key()) {
                Entry::Occupied(owner) => {
                    let (kind, (namespace, name)) = owner.key();
                    let message = format!("{kind} {namespace}/{name} is already defined in {}", owner.get());
                    merged.problems.push(refuse(message));
                }
                Entry::Vacant(free) => {
                    free.insert(Arc::clone(&file.name));
                    let refused = merged_in(&mut merged, &file.name, object);
                    merged.problems.extend(refused.map(refuse));
                }
            }
        }
    }
    merged
}

/// Takes an object in; what is wrong with it, if it cannot be.
fn merged_in(merged: &mut Manifests, file: &Arc<str>, object: &Loaded) -> Option<String> {
    match object {
        Loaded::Secret(secret) => {
            let (_, name) = object.key();
            merged.secrets.insert(name, HeldSecret(Arc::clone(secret)));
            None
        }
        Loaded::Pod { uid, pod } => match merged.pods.entry(uid.clone()) {
            Entry::Occupied(other) => Some(format!("pod UID {uid} is already used in {}", other.get().file)),
            Entry::Vacant(free) => {
                free.insert(ManifestPod { file: Arc::clone(file), pod: Arc::clone(pod) });
                None
            }
        },
    }
}

// === impl HeldSecret ===

impl fmt::Debug for HeldSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HeldSecret")
    }
}

// === impl Manifests ===

impl Manifests {
    /// Whether nothing changed. Objects that did not change stay the same values, so comparing is cheap.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        let head = |all: &Self| (all.ready, all.pods.len(), all.secrets.len());
        let mut pods = self.pods.iter().zip(&other.pods);
        let mut secrets = self.secrets.iter().zip(&other.secrets);
        head(self) == head(other)
            && self.problems == other.problems
            && pods.all(|(a, b)| a.0 == b.0 && a.1.file == b.1.file && Arc::ptr_eq(&a.1.pod, &b.1.pod))
            && secrets.all(|(a, b)| a.0 == b.0 && Arc::ptr_eq(&a.1.0, &b.1.0))
    }

    /// A pod by its name.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<(&PodUid, &ManifestPod)> {
        self.pods.iter().find(|(_, entry)| {
            let metadata = &entry.pod.metadata;
            metadata.namespace.as_deref() == Some(namespace) && metadata.name.as_deref() == Some(name)
        })
    }
}
