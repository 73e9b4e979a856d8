//! Pods, their events and their volumes.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use hyper::body::Incoming;
use imagevol_api::core::image_volumes;
use imagevol_api::corev1::{Event, Pod};
use imagevol_api::daemon::{PodSubPath, PodVolume, PodVolumes};
use imagevol_api::metav1::ListMeta;
use imagevol_api::names::{PodUid, VolumeName};
use imagevol_api::oci::Digest;
use imagevol_base::volumes::{PodVolumeReport, VolumeState};
use imagevol_controlplane::{ControlPlaneError, DryRun, Sent};
use imagevol_volume::Key;
use imagevol_volume::sub_path::sub_path_mounts;
use serde::Serialize;

use super::{Query, read_body};
use crate::http::{Answer, Failure, json, no_such_route, success};
use crate::node::Node;

/// `PodList` and `EventList`, as Kubernetes writes lists.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct List<T> {
    api_version: &'static str,
    kind: &'static str,
    metadata: ListMeta,
    items: Vec<T>,
}

pub(super) async fn apply(node: &Node, query: &Query, body: Incoming) -> Result<Answer, Failure> {
    let dry_run = match query.get("dryRun") {
        None | Some("") => DryRun::None,
        Some("All") => DryRun::All,
        Some(other) => return Err(Failure::bad_request(format!("dryRun must be All, not {other:?}"))),
    };
    let manifest = read_body(body).await?.to_vec();
    let from = Sent {
        name: query.get("source").unwrap_or("STDIN").to_owned(),
        namespace: query.get("namespace").map(str::to_owned),
    };
    Ok(json(&node.control.apply(manifest, from, dry_run).await))
}

/// Below `/api/v1`.
pub(super) async fn route(node: &Node, method: &Method, path: &[&str]) -> Result<Answer, Failure> {
    match (method, path) {
        (&Method::GET, ["pods"]) => Ok(pods(node, None)),
        (&Method::GET, ["namespaces", namespace, "pods"]) => Ok(pods(node, Some(namespace))),
        (&Method::GET, ["events"]) => Ok(events(node, None)),
        (&Method::GET, ["namespaces", namespace, "events"]) => Ok(events(node, Some(namespace))),
        (&Method::GET, ["namespaces", namespace, "pods", name]) => {
            node.control.pod(namespace, name).map(|pod| json(&pod)).map_err(|error| failure(&error))
        }
        (&Method::DELETE, ["namespaces", namespace, "pods", name]) => {
            node.control.delete(namespace, name).await.map(|()| success()).map_err(|error| failure(&error))
        }
        (&Method::DELETE, ["namespaces", namespace, "secrets", name]) => {
            node.control.delete_secret(namespace, name).await.map(|()| success()).map_err(|error| failure(&error))
        }
        (&Method::POST, ["namespaces", namespace, "pods", name, "retry"]) => {
            let start_anew = |uid: &PodUid| {
                node.images.forget(uid);
                node.volumes.retry(uid);
            };
            node.control.retry(namespace, name, start_anew).await.map(|()| success()).map_err(|error| failure(&error))
        }
        (&Method::GET, ["namespaces", namespace, "pods", name, "volumes"]) => {
            let pod = node.control.pod(namespace, name).map_err(|error| failure(&error))?;
            volumes(node, &pod).map(|volumes| json(&volumes))
        }
        (method, path) => Ok(no_such_route(method, &format!("/api/v1/{}", path.join("/")))),
    }
}

fn failure(error: &ControlPlaneError) -> Failure {
    let code = StatusCode::from_u16(error.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Failure::new(code, error.reason(), error.to_string())
}

fn pods(node: &Node, namespace: Option<&str>) -> Answer {
    let items: Vec<Pod> = node.control.pods(namespace);
    json(&List { api_version: "v1", kind: "PodList", metadata: ListMeta::default(), items })
}

fn events(node: &Node, namespace: Option<&str>) -> Answer {
    let items: Vec<Event> = node.control.events(namespace);
    json(&List { api_version: "v1", kind: "EventList", metadata: ListMeta::default(), items })
}

fn volumes(node: &Node, pod: &Pod) -> Result<PodVolumes, Failure> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let uid: PodUid = uid.parse().map_err(|error| Failure::internal(format!("{error}")))?;
    let report = node.volume_reports().get(&uid).cloned().unwrap_or_default();
    let names = image_volumes(pod).filter_map(|(volume, _)| volume.name.parse().ok());
    Ok(PodVolumes { volumes: names.map(|name| volume(node, pod, &uid, &name, &report)).collect() })
}

fn volume(node: &Node, pod: &Pod, uid: &PodUid, name: &VolumeName, report: &PodVolumeReport) -> PodVolume {
    let image = report.volumes.get(name).and_then(mounted_image);
    PodVolume {
        name: name.to_string(),
        path: node.host.path(&Key::of_pod(uid.clone(), name.clone())).display().to_string(),
        mounted: image.is_some(),
        image,
        sub_paths: sub_paths(node, pod, uid, name, report),
    }
}

fn mounted_image(state: &VolumeState) -> Option<Digest> {
    match state {
        VolumeState::Mounted { image } => Some(image.clone()),
        VolumeState::Waiting | VolumeState::Pulling | VolumeState::Failed(_) => None,
    }
}

/// The sub paths that are, or will be, mounted; those that failed are told by the pod's status.
fn sub_paths(node: &Node, pod: &Pod, uid: &PodUid, name: &VolumeName, report: &PodVolumeReport) -> Vec<PodSubPath> {
    let failed: &BTreeMap<_, _> = &report.sub_path_errors;
    let mounts = sub_path_mounts(pod, name).into_iter();
    let wanted = mounts.filter(|mount| !failed.contains_key(&(mount.container.clone(), mount.index)));
    let sub_path = |mount: imagevol_volume::sub_path::SubPathMount| {
        Some(PodSubPath {
            container: mount.container.to_string(),
            index: mount.index,
            sub_path: mount.sub_path.ok()?.as_str().to_owned(),
            path: node.host.sub_path_path(uid, name, &mount.container, mount.index).display().to_string(),
        })
    };
    wanted.filter_map(sub_path).collect()
}
