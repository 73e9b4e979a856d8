//! Which volumes the kubelet will ask for: known as soon as a pod is bound to the node, before the kubelet has looked at it.

use std::collections::BTreeMap;
use std::sync::Arc;

use imagevol_api::config::CSI_DRIVER;
use imagevol_api::corev1::{CSIVolumeSource, Pod, Volume};
use imagevol_base::Target;
use imagevol_images::{Claims, PullSecret, ServiceAccountClaim};
use imagevol_volumemanager::VolumeRequest;

use crate::attributes::{Attributes, KUBELET_PREFIX};

/// The last part of a kubelet's target paths (csi_mounter.go, `GetPath`).
const LEAF: &str = "mount";
/// Phases of pods whose containers have ended for good.
const ENDED: [&str; 2] = ["Succeeded", "Failed"];

/// Finds the pull secret of a namespace and a name, if it can be read and is one.
pub type SecretLookup<'a> = dyn Fn(&str, &str) -> Option<PullSecret> + 'a;

/// The inline volumes of our driver in living pods, as their publish will ask for them.
///
/// Left out is what a publish would refuse, and a volume whose `nodePublishSecretRef` nobody here can read: it would be tried with less
/// than the kubelet will show. Persistent volumes are left out, too: which image a claim means is in objects of the cluster.
pub fn expected<'a>(
    pods: impl IntoIterator<Item = &'a Arc<Pod>>,
    secrets: &SecretLookup<'_>,
) -> BTreeMap<Target, VolumeRequest> {
    let living = pods.into_iter().filter(|pod| is_living(pod));
    living.flat_map(|pod| of_pod(pod, secrets).collect::<Vec<_>>()).collect()
}

fn is_living(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    pod.metadata.deletion_timestamp.is_none() && !ENDED.contains(&phase)
}

fn of_pod<'a>(
    pod: &'a Arc<Pod>,
    secrets: &'a SecretLookup<'_>,
) -> impl Iterator<Item = (Target, VolumeRequest)> + use<'a> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| of_volume(pod, volume, secrets))
}

fn of_volume(pod: &Arc<Pod>, volume: &Volume, secrets: &SecretLookup<'_>) -> Option<(Target, VolumeRequest)> {
    let csi = volume.csi.as_ref().filter(|csi| csi.driver == CSI_DRIVER && csi.read_only == Some(true))?;
    let uid = pod.metadata.uid.as_deref()?.parse().ok()?;
    let target = Target { pod: uid, volume: volume.name.parse().ok()?, leaf: LEAF.parse().ok()? };
    let context = csi.volume_attributes.clone().unwrap_or_default();
    // The kubelet's own come with its call.
    let context = context.into_iter().filter(|(key, _)| !key.starts_with(KUBELET_PREFIX)).collect();
    let Attributes { reference, policy, platform } = Attributes::parse(&context).ok()?;
    let claims = Arc::new(claims(pod, csi, secrets)?);
    Some((target, VolumeRequest { pod: Arc::clone(pod), reference, policy, claims, platform }))
}

fn claims(pod: &Pod, csi: &CSIVolumeSource, secrets: &SecretLookup<'_>) -> Option<Claims> {
    let namespace = pod.metadata.namespace.as_deref()?;
    let named = csi.node_publish_secret_ref.as_ref();
    let secrets = match named {
        Some(reference) => vec![secrets(namespace, &reference.name)?],
        None => Vec::new(),
    };
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
    let service_account = account.filter(|name| !name.is_empty()).map(|name| ServiceAccountClaim {
        namespace: namespace.to_owned(),
        name,
        uid: String::new(),
        annotations: BTreeMap::new(),
        tokens: BTreeMap::new(),
    });
    Some(Claims { secrets, service_account })
}

#[cfg(test)]
mod tests;
