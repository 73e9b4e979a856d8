//! Which volumes the kubelet will ask for: known as soon as a pod is bound to the node, before the kubelet has looked at it.

use std::collections::BTreeMap;
use std::sync::Arc;

use imagevol_api::config::CSI_DRIVER;
use imagevol_api::corev1::{Pod, Volume};
use imagevol_base::Target;
use imagevol_images::{Claims, ServiceAccountClaim};
use imagevol_volumemanager::VolumeRequest;

use crate::attributes::{Attributes, KUBELET_PREFIX};

/// The last part of a kubelet's target paths (csi_mounter.go, `GetPath`).
const LEAF: &str = "mount";

/// The inline volumes of our driver in `living` pods, as their publish will ask for them.
///
/// Left out is what a publish would refuse, and a volume with a secret of its own (`nodePublishSecretRef`): it waits for the kubelet, which
/// brings the secret, instead of being tried with less. Persistent volumes are left out, too: which image a claim means is in objects of
/// the cluster.
pub fn expected<'a>(living: impl IntoIterator<Item = &'a Arc<Pod>>) -> BTreeMap<Target, VolumeRequest> {
    living.into_iter().flat_map(of_pod).collect()
}

fn of_pod(pod: &Arc<Pod>) -> impl Iterator<Item = (Target, VolumeRequest)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| of_volume(pod, volume))
}

fn of_volume(pod: &Arc<Pod>, volume: &Volume) -> Option<(Target, VolumeRequest)> {
    let csi = volume.csi.as_ref().filter(|csi| csi.driver == CSI_DRIVER && csi.read_only == Some(true))?;
    if csi.node_publish_secret_ref.is_some() {
        return None;
    }
    let uid = pod.metadata.uid.as_deref()?.parse().ok()?;
    let target = Target { pod: uid, volume: volume.name.parse().ok()?, leaf: LEAF.parse().ok()? };
    let context = csi.volume_attributes.clone().unwrap_or_default();
    // The kubelet's own come with its call.
    let context = context.into_iter().filter(|(key, _)| !key.starts_with(KUBELET_PREFIX)).collect();
    let Attributes { reference, policy, platform } = Attributes::parse(&context).ok()?;
    let claims = Arc::new(claims(pod)?);
    Some((target, VolumeRequest { pod: Arc::clone(pod), reference, policy, claims, platform }))
}

fn claims(pod: &Pod) -> Option<Claims> {
    let namespace = pod.metadata.namespace.as_deref()?;
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
    let account = account.filter(|name| !name.is_empty());
    let claim = |name| ServiceAccountClaim::of_tokens(namespace, name, BTreeMap::new());
    Some(Claims { secrets: Vec::new(), service_account: account.map(claim) })
}

#[cfg(test)]
mod tests;
