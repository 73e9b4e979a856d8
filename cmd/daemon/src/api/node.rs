//! The node as a whole: its status, and its proof.

use imagevol_api::daemon::{BlobProgress, NodeStatus, RunningPull};
use imagevol_base::volumes::VolumeState;
use imagevol_cri::ImageService as _;
use imagevol_volumemanager::DoorState;

use crate::fsck::Mode;
use crate::http::{Answer, Failure, json};
use crate::node::Node;

pub(super) async fn status(node: &Node) -> Result<Answer, Failure> {
    let usage = node.service.fs_info().await.map_err(|error| Failure::internal(error.to_string()))?;
    let images = node.service.list().await.map_err(|error| Failure::internal(error.to_string()))?;
    let (config, prefetch) = (&node.config, node.prefetch());
    Ok(json(&NodeStatus {
        version: crate::node::version(),
        node_name: node.name.clone(),
        image_backend: node.backend.to_string(),
        state_dir: config.state_dir.display().to_string(),
        root_dir: config.root_dir().display().to_string(),
        manifest_dir: config.static_pod_path.display().to_string(),
        pods: node.control.pods(None).len() as u64,
        mounted_volumes: mounted_volumes(node),
        images: images.len() as u64,
        used_bytes: usage.used_bytes,
        available_bytes: usage.available_bytes,
        pulls: pulls(node),
        not_ready: node.not_ready(),
        manifest_problems: manifest_problems(node),
        prefetch: prefetch.count(),
        prefetch_problems: prefetch.problems.clone(),
    }))
}

pub(super) async fn fsck(node: &Node, mode: Mode) -> Result<Answer, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::internal(error.to_string());
    let found = match mode {
        Mode::Check => node.service.check().await,
        Mode::Repair => node.service.repair().await,
    };
    let (found, node) = (found.map_err(|error| failed(&error))?, node.clone());
    let complete =
        move || crate::fsck::with_mounts(found, (node.service.store(), &node.host), &*node.mounts, &node.config);
    let report = imagevol_base::blocking(complete).await;
    Ok(json(&report.map_err(|error| Failure::internal(format!("{error:#}")))?))
}

fn mounted_volumes(node: &Node) -> u64 {
    let reports = node.volume_reports();
    let states = reports.values().flat_map(|pod| pod.volumes.values());
    let of_pods = states.filter(|state| matches!(state, VolumeState::Mounted { .. })).count();
    let published = node.volumes.list().into_iter().filter(|(_, volume)| matches!(volume.state, DoorState::Mounted(_)));
    (of_pods + published.count()) as u64
}

fn pulls(node: &Node) -> Vec<RunningPull> {
    let pull = |pull: imagevol_imageservice::RunningPull| RunningPull {
        reference: pull.reference,
        blobs: blobs(&pull.progress),
    };
    node.service.running_pulls().into_iter().map(pull).collect()
}

/// How far a pull has come, for the wire.
pub(super) fn blobs(progress: &imagevol_cri::Progress) -> Vec<BlobProgress> {
    let blob = |blob: imagevol_cri::progress::BlobProgress| BlobProgress {
        digest: blob.digest,
        size: blob.size,
        done: blob.done,
    };
    progress.snapshot().into_iter().map(blob).collect()
}

fn manifest_problems(node: &Node) -> Vec<String> {
    let sentence = |problem: imagevol_controlplane::file::Problem| {
        if problem.file.is_empty() { problem.message } else { format!("{}: {}", problem.file, problem.message) }
    };
    node.control.problems().into_iter().map(sentence).collect()
}
