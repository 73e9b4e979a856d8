//! A call of the kubelet, read into what is wanted of the volume manager. Pure.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use imagevol_api::corev1::{Pod, PodSpec};
use imagevol_api::csi::{NodePublishVolumeRequest, VolumeCapability, volume_capability};
use imagevol_api::metav1::ObjectMeta;
use imagevol_base::Target;
use imagevol_volumemanager::VolumeRequest;
use volume_capability::AccessType;

use crate::attributes::{Attributes, KUBELET_PREFIX};
use crate::claims;
use crate::refusal::Refusal;

/// A volume that is to be published.
#[derive(Debug)]
pub(crate) struct Publication {
    /// Where.
    pub(crate) target: Target,
    /// What. Its pod is made of what the call says of it.
    pub(crate) request: VolumeRequest,
}

/// The pod of a call, as the kubelet tells of it (`podInfoOnMount`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodInfo {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) uid: String,
    /// Empty if it is not told.
    pub(crate) service_account: String,
}

// === impl Publication ===

impl Publication {
    /// Reads a call; a target path that is not below the root of this node's kubelet is refused.
    pub(crate) fn read(call: NodePublishVolumeRequest, root_dir: &Path) -> Result<Self, Refusal> {
        required("volume_id", &call.volume_id)?;
        required("target_path", &call.target_path)?;
        capability(call.volume_capability.as_ref())?;
        let target = Target::parse(root_dir, Path::new(&call.target_path))?;
        let mut context = call.volume_context;
        if let Some(place) = place_of_read_only(&context).filter(|_| !call.readonly) {
            return Err(Refusal::NotReadOnly(place));
        }
        let pod = PodInfo::read(&context)?;
        if pod.uid != target.pod.as_str() {
            return Err(Refusal::OtherPod);
        }
        let claims = claims::read(call.secrets, &mut context, &pod)?;
        let Attributes { reference, policy, platform } = Attributes::parse(&context)?;
        let (pod, claims) = (Arc::new(pod.into_pod()), Arc::new(claims));
        let request = VolumeRequest { pod, reference, policy, claims, platform };
        Ok(Self { target, request })
    }
}

// === impl PodInfo ===

impl PodInfo {
    fn read(context: &BTreeMap<String, String>) -> Result<Self, Refusal> {
        let needed = |key| told(context, key).filter(|value| !value.is_empty()).ok_or(Refusal::NoPodInfo);
        Ok(Self {
            name: needed("pod.name")?.to_owned(),
            namespace: needed("pod.namespace")?.to_owned(),
            uid: needed("pod.uid")?.to_owned(),
            service_account: told(context, "serviceAccount.name").unwrap_or_default().to_owned(),
        })
    }

    /// What is known of the pod without asking the API server.
    fn into_pod(self) -> Pod {
        let spec = PodSpec {
            service_account_name: Some(self.service_account).filter(|name| !name.is_empty()),
            ..PodSpec::default()
        };
        let metadata = ObjectMeta {
            name: Some(self.name),
            namespace: Some(self.namespace),
            uid: Some(self.uid),
            ..ObjectMeta::default()
        };
        Pod { metadata, spec: Some(spec), ..Pod::default() }
    }
}

/// Refuses a field that is absent, which to gRPC is one that is empty.
pub(crate) fn required(field: &'static str, value: &str) -> Result<(), Refusal> {
    if value.is_empty() { Err(Refusal::Missing(field)) } else { Ok(()) }
}

/// What the kubelet says besides the attributes of the volume; those cannot overrule it (csi_mounter.go, `SetUpAt`).
fn told<'a>(context: &'a BTreeMap<String, String>, key: &str) -> Option<&'a str> {
    context.get(&format!("{KUBELET_PREFIX}{key}")).map(String::as_str)
}

/// Where a pod's author writes `readOnly`; `None` if no kubelet calls. Of a persistent volume's own `csi.readOnly` a kubelet says nothing
/// (csi_util.go, `getReadOnlyFromSpec`).
fn place_of_read_only(context: &BTreeMap<String, String>) -> Option<&'static str> {
    match told(context, "ephemeral")? {
        "true" => Some("the volume's csi section"),
        _ => Some("the pod's persistentVolumeClaim section"),
    }
}

/// Any access mode will do: whatever it says, the mount is read-only.
fn capability(capability: Option<&VolumeCapability>) -> Result<(), Refusal> {
    let capability = capability.ok_or(Refusal::Missing("volume_capability"))?;
    if capability.access_mode.is_none() {
        return Err(Refusal::Missing("volume_capability.access_mode"));
    }
    match &capability.access_type {
        None => Err(Refusal::Missing("volume_capability.access_type")),
        Some(AccessType::Block(_)) => Err(Refusal::Block),
        Some(AccessType::Mount(mount)) if !mount.fs_type.is_empty() => Err(Refusal::FsType),
        Some(AccessType::Mount(mount)) if !mount.mount_flags.is_empty() => Err(Refusal::MountFlags),
        Some(AccessType::Mount(mount)) if !mount.volume_mount_group.is_empty() => Err(Refusal::MountGroup),
        Some(AccessType::Mount(_)) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
