//! What is kept of a pod: nothing that is not used, least of all what may hold secrets (environments, arguments).

use imagevol_api::config::CSI_DRIVER;
use imagevol_api::core::static_pod::SOURCE_ANNOTATION;
use imagevol_api::corev1::{Container, Pod, PodSpec, PodStatus, Volume};
use imagevol_api::metav1::ObjectMeta;

use super::MIRROR_ANNOTATION;

/// What the kubelet writes there for pods of the API server (`pkg/kubelet/types`, `ApiserverSource`).
pub(in super::super) const API_SOURCE: &str = "api";
/// Where annotations of ours begin.
const OUR_ANNOTATIONS: &str = "imagevol.dev/";

/// The pod with what is used of it.
pub(super) fn pruned(pod: Pod) -> Pod {
    let spec = pod.spec.unwrap_or_default();
    let volumes: Vec<_> = spec.volumes.into_iter().flatten().filter(is_ours).collect();
    let keep = |containers: Vec<Container>| containers.into_iter().map(|each| container(each, &volumes)).collect();
    let (containers, init_containers) = (keep(spec.containers), spec.init_containers.map(keep));
    Pod {
        metadata: metadata(pod.metadata),
        spec: Some(PodSpec {
            containers,
            init_containers,
            image_pull_secrets: spec.image_pull_secrets,
            node_name: spec.node_name,
            service_account_name: spec.service_account_name,
            volumes: Some(volumes),
            ..PodSpec::default()
        }),
        status: pod.status.map(|status| PodStatus { phase: status.phase, ..PodStatus::default() }),
    }
}

/// Whether two pruned pods say the same: the resource version grows with every change of what was pruned.
pub(super) fn same(one: &Pod, other: &Pod) -> bool {
    let Pod { metadata, spec, status } = one;
    let newer = ObjectMeta { resource_version: other.metadata.resource_version.clone(), ..metadata.clone() };
    newer == other.metadata && *spec == other.spec && *status == other.status
}

/// Where a pod came from is for us to say: what its owner writes there could make it pass for a pod of this node's own manifests.
fn metadata(of: ObjectMeta) -> ObjectMeta {
    let kept = |key: &String| key.starts_with(OUR_ANNOTATIONS) || key == MIRROR_ANNOTATION;
    let mut annotations = of.annotations.unwrap_or_default();
    annotations.retain(|key, _| kept(key));
    annotations.insert(SOURCE_ANNOTATION.to_owned(), API_SOURCE.to_owned());
    ObjectMeta {
        annotations: Some(annotations),
        creation_timestamp: of.creation_timestamp,
        deletion_timestamp: of.deletion_timestamp,
        name: of.name,
        namespace: of.namespace,
        resource_version: of.resource_version,
        uid: of.uid,
        ..ObjectMeta::default()
    }
}

fn is_ours(volume: &Volume) -> bool {
    volume.image.is_some() || volume.csi.as_ref().is_some_and(|csi| csi.driver == CSI_DRIVER)
}

fn container(of: Container, volumes: &[Volume]) -> Container {
    let mounts = of.volume_mounts.into_iter().flatten();
    let ours = mounts.filter(|mount| volumes.iter().any(|volume| volume.name == mount.name)).collect();
    Container { name: of.name, volume_mounts: Some(ours), ..Container::default() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keeps_what_is_used_and_nothing_that_may_be_secret() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {
                "name": "p", "namespace": "a", "uid": "u", "resourceVersion": "7",
                "labels": {"l": "1"}, "managedFields": [{"manager": "m"}],
                "annotations": {
                    "imagevol.dev/translate": "true", "other": "x",
                    "kubernetes.io/config.source": "file", "kubernetes.io/config.mirror": "m"
                },
            },
            "spec": {
                "nodeName": "n", "serviceAccountName": "s", "imagePullSecrets": [{"name": "r"}],
                "containers": [{
                    "name": "c", "image": "i", "env": [{"name": "PASSWORD", "value": "s3cret"}], "args": ["s3cret"],
                    "volumeMounts": [{"name": "data", "mountPath": "/d", "readOnly": true}, {"name": "tmp", "mountPath": "/t"}],
                }],
                "initContainers": [{"name": "i", "volumeMounts": [{"name": "model", "mountPath": "/m"}]}],
                "volumes": [
                    {"name": "data", "image": {"reference": "r/a:1"}},
                    {"name": "tmp", "emptyDir": {}},
                    {"name": "model", "csi": {"driver": "csi.imagevol.dev", "volumeAttributes": {"reference": "r/b:1"}}},
                    {"name": "other", "csi": {"driver": "secrets-store.csi.k8s.io"}},
                ],
            },
            "status": {"phase": "Pending", "podIP": "10.0.0.1"},
        }))
        .unwrap();
        let pruned = pruned(pod);
        assert_eq!(
            serde_json::to_value(&pruned).unwrap(),
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "name": "p", "namespace": "a", "uid": "u", "resourceVersion": "7",
                    "annotations": {
                        "imagevol.dev/translate": "true",
                        "kubernetes.io/config.source": "api", "kubernetes.io/config.mirror": "m"
                    },
                },
                "spec": {
                    "nodeName": "n", "serviceAccountName": "s", "imagePullSecrets": [{"name": "r"}],
                    "containers": [{"name": "c", "volumeMounts": [{"name": "data", "mountPath": "/d", "readOnly": true}]}],
                    "initContainers": [{"name": "i", "volumeMounts": [{"name": "model", "mountPath": "/m"}]}],
                    "volumes": [
                        {"name": "data", "image": {"reference": "r/a:1"}},
                        {"name": "model", "csi": {"driver": "csi.imagevol.dev", "volumeAttributes": {"reference": "r/b:1"}}},
                    ],
                },
                "status": {"phase": "Pending"},
            })
        );
    }

    #[test]
    fn a_new_resource_version_alone_is_no_change() {
        let pod = |version: &str, phase: &str| -> Pod {
            serde_json::from_value(
                json!({"metadata": {"uid": "u", "resourceVersion": version}, "status": {"phase": phase}}),
            )
            .unwrap()
        };
        assert!(same(&pod("1", "Pending"), &pod("2", "Pending")));
        assert!(!same(&pod("1", "Pending"), &pod("2", "Running")));
    }
}
