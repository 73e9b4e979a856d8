//! The identity of pods that come from a manifest and not from an API server.

use jiff::Timestamp;

use crate::corev1::Pod;
use crate::hex;
use crate::metav1::Time;
use crate::names::{NameError, PodUid};

/// Where a pod came from (Kubernetes, `pkg/kubelet/types`, `ConfigSourceAnnotationKey`).
pub const SOURCE_ANNOTATION: &str = "kubernetes.io/config.source";
/// The pod's UID as its source made it (`ConfigHashAnnotationKey`).
pub const HASH_ANNOTATION: &str = "kubernetes.io/config.hash";
/// When the pod was first seen, in RFC 3339 (`ConfigFirstSeenAnnotationKey`).
pub const SEEN_ANNOTATION: &str = "kubernetes.io/config.seen";
/// Hex digits of a made UID: as many as the kubelet's 128-bit hash has.
const UID_DIGITS: usize = 32;

/// Where a manifest was found, and when.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The kind of source: `file` for the manifest directory.
    pub source: &'a str,
    /// What names the manifest within its source: the file's path.
    pub path: &'a str,
    /// The node that reads it.
    pub node_name: &'a str,
    /// When it was first seen.
    pub seen: Timestamp,
}

/// Why a pod has no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The manifest's own UID cannot name a directory.
    #[error("metadata.uid cannot be used")]
    Uid(#[from] NameError),
    /// The pod cannot be written as JSON, of which its UID is the hash.
    #[error("pod cannot be hashed")]
    Hash(#[from] serde_json::Error),
}

/// Gives the pod what an API server would have given it: UID, node, namespace, creation time, and the kubelet's annotations.
///
/// The UID depends on nothing but the manifest's content, its path and the node: the same manifest is the same pod
/// after a restart, a changed one is another pod. A UID that the manifest brings is kept if it can name a directory.
/// To be called on the decoded pod, before defaulting, so that a new default makes no new pods. The pod keeps its name.
///
/// (Kubernetes, `pkg/kubelet/config/common.go`, `applyDefaults`, which hashes alike but also appends the node's name.)
pub fn identify(pod: &mut Pod, origin: &Origin<'_>) -> Result<PodUid, IdentityError> {
    let written = pod.metadata.uid.take().filter(|uid| !uid.is_empty());
    let uid: PodUid = match written {
        Some(uid) => uid.parse()?,
        None => made_uid(pod, origin)?.parse()?,
    };
    let metadata = &mut pod.metadata;
    metadata.uid = Some(uid.to_string());
    if metadata.namespace.as_deref().unwrap_or_default().is_empty() {
        metadata.namespace = Some("default".to_owned());
    }
    metadata.creation_timestamp = Some(Time(origin.seen));
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.insert(SOURCE_ANNOTATION.to_owned(), origin.source.to_owned());
    annotations.insert(HASH_ANNOTATION.to_owned(), uid.to_string());
    annotations.insert(SEEN_ANNOTATION.to_owned(), origin.seen.to_string());
    pod.spec.get_or_insert_default().node_name = Some(origin.node_name.to_owned());
    Ok(uid)
}

fn made_uid(pod: &Pod, origin: &Origin<'_>) -> Result<String, serde_json::Error> {
    let mut content = pod.clone();
    content.status = None;
    content.metadata.creation_timestamp = None;
    for key in [SOURCE_ANNOTATION, HASH_ANNOTATION, SEEN_ANNOTATION] {
        if let Some(annotations) = &mut content.metadata.annotations {
            annotations.remove(key);
        }
    }
    // Keys of objects come out sorted, and lengths keep the parts apart.
    let content = serde_json::to_value(content)?.to_string();
    let parts = [content.as_str(), origin.source, origin.path, origin.node_name];
    let hashed: Vec<_> = parts.iter().map(|part| format!("{}:{part}", part.len())).collect();
    Ok(hex::sha256(hashed.concat().as_bytes()).chars().take(UID_DIGITS).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn origin(path: &str) -> Origin<'_> {
        Origin { source: "file", path, node_name: "node", seen: "2026-01-02T03:04:05.5Z".parse().unwrap() }
    }

    fn pod(image: &str) -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": image}]}}),
        )
        .unwrap()
    }

    fn uid(pod: &Pod, origin: &Origin<'_>) -> String {
        identify(&mut pod.clone(), origin).unwrap().to_string()
    }

    #[test]
    fn fills_in_what_the_kubelet_fills_in() {
        let mut pod = pod("i");
        let uid = identify(&mut pod, &origin("/m/p.yaml")).unwrap();
        assert_eq!(uid.as_str().len(), 32);
        assert_eq!(
            serde_json::to_value(&pod.metadata).unwrap(),
            json!({
                "name": "p", "namespace": "default", "uid": uid.as_str(), "creationTimestamp": "2026-01-02T03:04:05Z",
                "annotations": {
                    "kubernetes.io/config.hash": uid.as_str(),
                    "kubernetes.io/config.seen": "2026-01-02T03:04:05.5Z",
                    "kubernetes.io/config.source": "file",
                },
            })
        );
        assert_eq!(pod.spec.unwrap().node_name.as_deref(), Some("node"));
    }

    #[test]
    fn the_same_manifest_is_the_same_pod() {
        let first = uid(&pod("i"), &origin("/m/p.yaml"));
        let later = Origin { seen: "2027-01-01T00:00:00Z".parse().unwrap(), ..origin("/m/p.yaml") };
        assert_eq!(uid(&pod("i"), &later), first);
        assert_ne!(uid(&pod("j"), &later), first);
        assert_ne!(uid(&pod("i"), &origin("/m/q.yaml")), first);
        assert_ne!(uid(&pod("i"), &Origin { node_name: "other", ..later }), first);
    }

    #[test]
    fn a_uid_of_ones_own_must_be_a_name() {
        let with = |uid: &str| {
            let mut pod = pod("i");
            pod.metadata.uid = Some(uid.to_owned());
            identify(&mut pod, &origin("/m/p.yaml")).map(|uid| uid.to_string())
        };
        assert_eq!(with("my-uid").unwrap(), "my-uid");
        assert_eq!(with("").unwrap(), uid(&pod("i"), &origin("/m/p.yaml")));
        assert!(with("../x").is_err());
    }
}
