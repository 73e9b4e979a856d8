//! Volume mounts and devices of one container.

use std::collections::BTreeSet;

use crate::corev1::{VolumeDevice, VolumeMount};

use super::container::View;
use super::volumes::Volumes;
use super::{ErrorList, one_of};
use crate::core::field::{FieldError, Path};

/// In the order of the API server's message: sorted.
const PROPAGATIONS: [&str; 3] = ["Bidirectional", "HostToContainer", "None"];
const RECURSIVE_READ_ONLY: [&str; 3] = ["Disabled", "Enabled", "IfPossible"];

/// Names and paths that the other list of the same container uses.
struct Taken<'a> {
    names: BTreeSet<&'a str>,
    paths: BTreeSet<&'a str>,
}

/// Checks `volumeMounts` of a container against the pod's volumes and the container's devices.
pub(super) fn validate(container: &View<'_>, volumes: &Volumes<'_>, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut mount_paths = BTreeSet::new();
    let by_devices: Taken<'_> =
        container.devices.iter().map(|device| (device.name.as_str(), device.device_path.as_str())).collect();
    for (index, mount) in container.mounts.iter().enumerate() {
        let own = path.index(index);
        errors.extend(validate_target(mount, volumes, &mut mount_paths, &own));
        errors.extend(validate_overlap(mount, &by_devices, &own));
        errors.extend(validate_sub_path(mount, path, &own));
        // From here on upstream leaves out the mount's index.
        errors.extend(validate_propagation(mount, container.privileged, &path.child("mountPropagation")));
        errors.extend(validate_recursive_read_only(mount, &path.child("recursiveReadOnly")));
        errors.extend(validate_bind_options(mount, volumes, &own));
    }
    errors
}

impl<'a> FromIterator<(&'a str, &'a str)> for Taken<'a> {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(pairs: I) -> Self {
        let (names, paths) = pairs.into_iter().unzip();
        Self { names, paths }
    }
}

fn validate_target<'a>(
    mount: &'a VolumeMount,
    volumes: &Volumes<'_>,
    mount_paths: &mut BTreeSet<&'a str>,
    path: &Path,
) -> ErrorList {
    let (name, target) = (path.child("name"), path.child("mountPath"));
    let mut errors = ErrorList::new();
    if mount.name.is_empty() {
        errors.push(name.required(""));
    }
    if !volumes.contains_key(mount.name.as_str()) {
        errors.push(name.not_found(&mount.name));
    }
    if mount.mount_path.is_empty() {
        errors.push(target.required(""));
    }
    if !mount_paths.insert(&mount.mount_path) {
        errors.push(target.invalid(mount.mount_path.as_str(), "must be unique"));
    }
    errors
}

fn validate_overlap(mount: &VolumeMount, devices: &Taken<'_>, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    if devices.names.contains(mount.name.as_str()) {
        errors.push(path.child("name").invalid(mount.name.as_str(), "must not already exist in volumeDevices"));
    }
    if devices.paths.contains(mount.mount_path.as_str()) {
        let message = "must not already exist as a path in volumeDevices";
        errors.push(path.child("mountPath").invalid(mount.mount_path.as_str(), message));
    }
    errors
}

fn validate_sub_path(mount: &VolumeMount, list: &Path, path: &Path) -> ErrorList {
    let sub_path = mount.sub_path.as_deref().unwrap_or_default();
    let expression = mount.sub_path_expr.as_deref().unwrap_or_default();
    let mut errors = validate_descending(sub_path, &list.child("subPath"));
    if !expression.is_empty() && !sub_path.is_empty() {
        errors.push(path.child("subPathExpr").invalid(expression, "subPathExpr and subPath are mutually exclusive"));
    }
    errors.extend(validate_descending(expression, &list.child("subPathExpr")));
    errors
}

/// A path that stays below where it starts, as far as its letters tell (`validateLocalDescendingPath`).
fn validate_descending(text: &str, path: &Path) -> ErrorList {
    let absolute = text.starts_with('/').then(|| path.invalid(text, "must be a relative path"));
    let upwards = text.split('/').any(|part| part == "..").then(|| path.invalid(text, "must not contain '..'"));
    absolute.into_iter().chain(upwards).collect()
}

fn validate_propagation(mount: &VolumeMount, privileged: bool, path: &Path) -> Option<FieldError> {
    match mount.mount_propagation.as_deref()? {
        "Bidirectional" if !privileged => {
            Some(path.forbidden("Bidirectional mount propagation is available only to privileged containers"))
        }
        value if PROPAGATIONS.contains(&value) => None,
        value => Some(path.not_supported(value, &PROPAGATIONS)),
    }
}

fn validate_recursive_read_only(mount: &VolumeMount, path: &Path) -> ErrorList {
    let propagated = mount.mount_propagation.as_deref().is_some_and(|propagation| propagation != "None");
    match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => ErrorList::new(),
        Some("Enabled" | "IfPossible") => {
            let writable = mount.read_only != Some(true);
            let writable = writable.then(|| path.forbidden("may only be specified when readOnly is true"));
            let message = "may only be specified when mountPropagation is None or not specified";
            writable.into_iter().chain(propagated.then(|| path.forbidden(message))).collect()
        }
        Some(value) => vec![path.not_supported(value, &RECURSIVE_READ_ONLY)],
    }
}

/// `bindMountOptions` (Kubernetes 1.37, alpha) are documented not to work with image volumes: refused, not ignored.
fn validate_bind_options(mount: &VolumeMount, volumes: &Volumes<'_>, path: &Path) -> Option<FieldError> {
    let given = mount.bind_mount_options.as_ref().is_some_and(|options| !options.is_empty());
    let image = volumes.get(mount.name.as_str()).is_some_and(|volume| volume.image.is_some());
    (given && image).then(|| path.child("bindMountOptions").forbidden("not supported with image volumes"))
}

/// Checks `volumeDevices` of a container (`ValidateVolumeDevices`).
pub(super) fn validate_devices(container: &View<'_>, volumes: &Volumes<'_>, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    let by_mounts: Taken<'_> =
        container.mounts.iter().map(|mount| (mount.name.as_str(), mount.mount_path.as_str())).collect();
    for (index, device) in container.devices.iter().enumerate() {
        let own = path.index(index);
        errors.extend(validate_device_name(device, volumes, names.contains(device.name.as_str()), &own.child("name")));
        errors.extend(validate_device_path(device, &mut paths, &own.child("devicePath")));
        errors.extend(validate_device_overlap(device, &by_mounts, &own));
        if !device.name.is_empty() {
            names.insert(device.name.as_str());
        }
    }
    errors
}

fn validate_device_name(device: &VolumeDevice, volumes: &Volumes<'_>, repeated: bool, path: &Path) -> ErrorList {
    let name = device.name.as_str();
    let mut errors = ErrorList::new();
    if name.is_empty() {
        errors.push(path.required(""));
    }
    if repeated {
        errors.push(path.invalid(name, "must be unique"));
    }
    match volumes.get(name) {
        Some(volume) if volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() => {}
        Some(_) => {
            let message = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
            errors.push(path.invalid(name, message));
        }
        None => errors.push(path.not_found(name)),
    }
    errors
}

fn validate_device_path<'a>(device: &'a VolumeDevice, paths: &mut BTreeSet<&'a str>, path: &Path) -> ErrorList {
    let target = device.device_path.as_str();
    let mut errors = ErrorList::new();
    if target.is_empty() {
        errors.push(path.required(""));
    }
    if paths.contains(target) {
        errors.push(path.invalid(target, "must be unique"));
    }
    if target.split('/').any(|part| part == "..") {
        errors.push(path.invalid(target, "can not contain backsteps ('..')"));
    } else {
        paths.insert(target);
    }
    errors
}

fn validate_device_overlap(device: &VolumeDevice, mounts: &Taken<'_>, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    if mounts.names.contains(device.name.as_str()) {
        errors.push(path.child("name").invalid(device.name.as_str(), "must not already exist in volumeMounts"));
    }
    if mounts.paths.contains(device.device_path.as_str()) {
        let message = "must not already exist as a path in volumeMounts";
        errors.push(path.child("devicePath").invalid(device.device_path.as_str(), message));
    }
    errors
}

/// Ephemeral containers may not mount sub paths (`validateEphemeralContainers`).
pub(super) fn forbid_sub_paths(mounts: &[VolumeMount], path: &Path) -> ErrorList {
    let message = "cannot be set for an Ephemeral Container";
    let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let of = |(index, mount): (usize, &VolumeMount)| {
        let path = path.index(index);
        let sub_path = given(&mount.sub_path).then(|| path.child("subPath").forbidden(message));
        sub_path.into_iter().chain(given(&mount.sub_path_expr).then(|| path.child("subPathExpr").forbidden(message)))
    };
    mounts.iter().enumerate().flat_map(of).collect()
}

/// The container's own pull policy, which shares the volumes' values.
pub(super) fn validate_pull_policy(policy: Option<&str>, path: &Path) -> Option<FieldError> {
    one_of(policy, &super::volumes::PULL_POLICIES, path)
}
