//! The volumes of the kubelet's pods.

use imagevol_api::daemon::{CsiVolume, CsiVolumeList, CsiVolumeState};
use imagevol_base::Target;
use imagevol_volumemanager::{DoorState, DoorVolume};

use super::node::blobs;
use crate::http::{Answer, json};
use crate::node::Node;

pub(super) fn list(node: &Node) -> Answer {
    let root = node.config.root_dir();
    let mut items: Vec<_> =
        node.volumes.list().into_iter().map(|(target, volume)| shown(&root, &target, &volume)).collect();
    items.sort_by(|one, two| key(one).cmp(&key(two)));
    json(&CsiVolumeList { items })
}

fn key(volume: &CsiVolume) -> (&str, &str, &str, &str) {
    (&volume.namespace, &volume.pod, &volume.pod_uid, &volume.volume)
}

fn shown(root: &std::path::Path, target: &Target, volume: &DoorVolume) -> CsiVolume {
    let metadata = &volume.pod.metadata;
    let (state, image, reason, message) = match &volume.state {
        DoorState::Waiting => (CsiVolumeState::Waiting, None, None, None),
        DoorState::Pulling => (CsiVolumeState::Pulling, None, None, None),
        DoorState::Present(image) => (CsiVolumeState::Present, Some(image.digest().clone()), None, None),
        DoorState::Mounted(image) => (CsiVolumeState::Mounted, Some(image.digest().clone()), None, None),
        DoorState::Failed(failure) => {
            (CsiVolumeState::Failed, None, Some(failure.reason.to_owned()), Some(failure.message.clone()))
        }
        DoorState::Leaving(why) => (CsiVolumeState::Leaving, None, None, why.clone()),
    };
    CsiVolume {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        pod: metadata.name.clone().unwrap_or_default(),
        pod_uid: target.pod.to_string(),
        volume: target.volume.to_string(),
        path: target.below(root).display().to_string(),
        reference: volume.reference.clone(),
        state,
        reason,
        message,
        image,
        blobs: volume.progress.as_ref().map(blobs).unwrap_or_default(),
    }
}
