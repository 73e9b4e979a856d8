//! Volumes and their sources.

use std::collections::{BTreeMap, BTreeSet};

use crate::corev1::{ImageVolumeSource, PodSpec, Volume};
use crate::metav1::ObjectMeta;

use super::names::dns_label;
use super::{ErrorList, one_of};
use crate::core::field::{FieldError, Path};

/// The values of a pull policy, in the order of the API server's message.
pub(super) const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];

/// The volumes that mounts may name: those without errors.
pub(super) type Volumes<'a> = BTreeMap<&'a str, &'a Volume>;

pub(super) fn validate<'a>(volumes: &'a [Volume], path: &Path) -> (Volumes<'a>, ErrorList) {
    let (mut sound, mut errors) = (Volumes::new(), ErrorList::new());
    for (index, volume) in volumes.iter().enumerate() {
        let path = path.index(index);
        let mut own = validate_source(volume, &path);
        own.extend(validate_name(&volume.name, &path.child("name")));
        own.extend(sound.contains_key(volume.name.as_str()).then(|| path.child("name").duplicate(&volume.name)));
        if own.is_empty() {
            sound.insert(&volume.name, volume);
        }
        errors.extend(own);
    }
    (sound, errors)
}

/// A claim made for a generic ephemeral volume cannot be another volume's claim. (Upstream reports it among the
/// volumes' other errors; both in one pod is too rare to interleave them.)
pub(super) fn validate_claims(spec: &PodSpec, metadata: &ObjectMeta, path: &Path) -> ErrorList {
    let pod = metadata.name.as_deref().unwrap_or_default();
    let volumes = || spec.volumes.iter().flatten();
    let created = volumes().filter(|volume| volume.ephemeral.is_some()).map(|volume| format!("{pod}-{}", volume.name));
    let created: BTreeSet<String> = created.collect();
    let reused = volumes().enumerate().filter_map(|(index, volume)| {
        let claim = &volume.persistent_volume_claim.as_ref()?.claim_name;
        let path = path.child("volumes").index(index).child("persistentVolumeClaim").child("claimName");
        let message = "must not reference a PVC that gets created for an ephemeral volume";
        created.contains(claim).then(|| path.invalid(claim.as_str(), message))
    });
    reused.collect()
}

fn validate_name(name: &str, path: &Path) -> ErrorList {
    if name.is_empty() {
        return vec![path.required("")];
    }
    dns_label(name).into_iter().map(|message| path.invalid(name, message)).collect()
}

fn validate_source(volume: &Volume, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut sources = source_fields(volume).filter(|(_, present)| *present).map(|(field, _)| field);
    let Some(first) = sources.next() else { return vec![path.required("must specify a volume type")] };
    errors.extend(validate_first(volume, first, path));
    errors.extend(sources.map(|field| path.child(field).forbidden("may not specify more than 1 volume type")));
    errors
}

/// Checks the one source that counts. Only image volumes are checked in full: the others are for others to mount.
fn validate_first(volume: &Volume, field: &str, path: &Path) -> ErrorList {
    if let ("image", Some(image)) = (field, &volume.image) {
        return validate_image(image, &path.child("image"));
    }
    let empty = |text: Option<&str>| text.is_some_and(str::is_empty);
    let missing = match field {
        "hostPath" => empty(volume.host_path.as_ref().map(|host| host.path.as_str())).then_some("path"),
        "secret" => {
            let secret = volume.secret.as_ref();
            empty(secret.map(|secret| secret.secret_name.as_deref().unwrap_or_default())).then_some("secretName")
        }
        "configMap" => empty(volume.config_map.as_ref().map(|map| map.name.as_str())).then_some("name"),
        "persistentVolumeClaim" => {
            let claim = volume.persistent_volume_claim.as_ref();
            empty(claim.map(|claim| claim.claim_name.as_str())).then_some("claimName")
        }
        "csi" => empty(volume.csi.as_ref().map(|csi| csi.driver.as_str())).then_some("driver"),
        _ => None,
    };
    missing.map(|name| path.child(field).child(name).required("")).into_iter().collect()
}

fn validate_image(image: &ImageVolumeSource, path: &Path) -> ErrorList {
    let no_reference = image.reference.as_deref().unwrap_or_default().is_empty();
    let reference: Option<FieldError> = no_reference.then(|| path.child("reference").required(""));
    let policy = one_of(image.pull_policy.as_deref(), &PULL_POLICIES, &path.child("pullPolicy"));
    reference.into_iter().chain(policy).collect()
}

/// Every source a volume can have, in the order in which the API server counts them, and whether it is there.
///
/// Names are those of its messages, its slips included.
pub(crate) fn source_fields(volume: &Volume) -> impl Iterator<Item = (&'static str, bool)> {
    [
        ("emptyDir", volume.empty_dir.is_some()),
        ("hostPath", volume.host_path.is_some()),
        ("gitRepo", volume.git_repo.is_some()),
        ("gcePersistentDisk", volume.gce_persistent_disk.is_some()),
        ("awsElasticBlockStore", volume.aws_elastic_block_store.is_some()),
        ("secret", volume.secret.is_some()),
        ("nfs", volume.nfs.is_some()),
        ("iscsi", volume.iscsi.is_some()),
        ("glusterfs", volume.glusterfs.is_some()),
        ("flocker", volume.flocker.is_some()),
        ("persistentVolumeClaim", volume.persistent_volume_claim.is_some()),
        ("rbd", volume.rbd.is_some()),
        ("cinder", volume.cinder.is_some()),
        ("cephFS", volume.cephfs.is_some()),
        ("quobyte", volume.quobyte.is_some()),
        ("downwarAPI", volume.downward_api.is_some()),
        ("fc", volume.fc.is_some()),
        ("flexVolume", volume.flex_volume.is_some()),
        ("configMap", volume.config_map.is_some()),
        ("azureFile", volume.azure_file.is_some()),
        ("vsphereVolume", volume.vsphere_volume.is_some()),
        ("photonPersistentDisk", volume.photon_persistent_disk.is_some()),
        ("portworxVolume", volume.portworx_volume.is_some()),
        ("azureDisk", volume.azure_disk.is_some()),
        ("storageos", volume.storageos.is_some()),
        ("projected", volume.projected.is_some()),
        ("scaleIO", volume.scale_io.is_some()),
        ("csi", volume.csi.is_some()),
        ("ephemeral", volume.ephemeral.is_some()),
        ("image", volume.image.is_some()),
    ]
    .into_iter()
}
