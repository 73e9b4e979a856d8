//! Containers of every sort, as far as their names, images and volumes go.

use std::collections::BTreeSet;

use crate::corev1::{
    Container, EphemeralContainer, PodSpec, ResourceRequirements, SecurityContext, VolumeDevice, VolumeMount,
};

use super::names::dns_label;
use super::volumes::Volumes;
use super::{ErrorList, mounts, one_of};
use crate::core::field::{FieldError, Path};
use crate::core::quantity;

/// What containers and ephemeral containers have in common and is checked.
pub(super) struct View<'a> {
    pub(super) name: &'a str,
    pub(super) image: &'a str,
    image_pull_policy: Option<&'a str>,
    termination_message_policy: Option<&'a str>,
    resources: Option<&'a ResourceRequirements>,
    pub(super) mounts: &'a [VolumeMount],
    pub(super) devices: &'a [VolumeDevice],
    pub(super) privileged: bool,
    /// Fields that ephemeral containers may not have, and whether they are there.
    unsupported: [(&'static str, bool); 9],
}

macro_rules! view_of {
    ($container:ty) => {
        impl<'a> From<&'a $container> for View<'a> {
            fn from(container: &'a $container) -> Self {
                Self {
                    name: &container.name,
                    image: container.image.as_deref().unwrap_or_default(),
                    image_pull_policy: container.image_pull_policy.as_deref(),
                    termination_message_policy: container.termination_message_policy.as_deref(),
                    resources: container.resources.as_ref(),
                    mounts: container.volume_mounts.as_deref().unwrap_or_default(),
                    devices: container.volume_devices.as_deref().unwrap_or_default(),
                    privileged: is_privileged(container.security_context.as_ref()),
                    unsupported: [
                        ("ports", container.ports.is_some()),
                        ("resources", container.resources.as_ref().is_some_and(|given| *given != Default::default())),
                        ("resizePolicy", container.resize_policy.is_some()),
                        ("restartPolicy", container.restart_policy.is_some()),
                        ("restartPolicyRules", container.restart_policy_rules.is_some()),
                        ("livenessProbe", container.liveness_probe.is_some()),
                        ("readinessProbe", container.readiness_probe.is_some()),
                        ("startupProbe", container.startup_probe.is_some()),
                        ("lifecycle", container.lifecycle.is_some()),
                    ],
                }
            }
        }
    };
}

view_of!(Container);
view_of!(EphemeralContainer);

/// Checks a pod's containers, then its init containers, then its ephemeral ones.
pub(super) fn validate_all(spec: &PodSpec, volumes: &Volumes<'_>, path: &Path) -> ErrorList {
    let list = path.child("containers");
    let mut errors = ErrorList::new();
    if spec.containers.is_empty() {
        errors.push(list.required(""));
    }
    let mut names = BTreeSet::new();
    for (index, container) in spec.containers.iter().enumerate() {
        errors.extend(validate_one(&container.into(), volumes, &mut names, &list.index(index)));
    }
    let list = path.child("initContainers");
    for (index, container) in spec.init_containers.iter().flatten().enumerate() {
        errors.extend(validate_one(&container.into(), volumes, &mut names, &list.index(index)));
        // An empty name has its own error, and is no duplicate of the next one.
        names.remove("");
    }
    errors.extend(validate_ephemeral(spec, volumes, &names, &path.child("ephemeralContainers")));
    errors
}

/// Leading and trailing white space of an image (`validateContainerOnlyForPod`).
pub(super) fn image_spaces(container: &View<'_>, path: &Path) -> Option<FieldError> {
    let spaced = container.image.trim() != container.image;
    spaced.then(|| path.child("image").invalid(container.image, "must not have leading or trailing whitespace"))
}

fn validate_ephemeral(spec: &PodSpec, volumes: &Volumes<'_>, others: &BTreeSet<&str>, path: &Path) -> ErrorList {
    let (mut errors, mut names) = (ErrorList::new(), others.clone());
    for (index, container) in spec.ephemeral_containers.iter().flatten().enumerate() {
        let (path, view) = (path.index(index), View::from(container));
        errors.extend(validate_common(&view, volumes, &path));
        errors.extend(image_spaces(&view, &path));
        errors.extend((!names.insert(&container.name)).then(|| path.child("name").duplicate(&container.name)));
        let target =
            container.target_container_name.as_deref().filter(|name| !name.is_empty() && !others.contains(name));
        errors.extend(target.map(|name| path.child("targetContainerName").not_found(name)));
        let unsupported = view.unsupported.iter().filter(|(_, given)| *given);
        errors.extend(
            unsupported.map(|(name, _)| path.child(name).forbidden("cannot be set for an Ephemeral Container")),
        );
        errors.extend(mounts::forbid_sub_paths(view.mounts, &path.child("volumeMounts")));
    }
    errors
}

fn validate_one<'a>(
    container: &View<'a>,
    volumes: &Volumes<'_>,
    names: &mut BTreeSet<&'a str>,
    path: &Path,
) -> ErrorList {
    let mut errors = validate_common(container, volumes, path);
    errors.extend((!names.insert(container.name)).then(|| path.child("name").duplicate(container.name)));
    errors
}

/// `validateContainerCommon`, without what only a runtime needs.
fn validate_common(container: &View<'_>, volumes: &Volumes<'_>, path: &Path) -> ErrorList {
    let mut errors = validate_name(container.name, &path.child("name"));
    if container.image.is_empty() {
        errors.push(path.child("image").required(""));
    }
    let policies = ["File", "FallbackToLogsOnError"];
    let policy = path.child("terminationMessagePolicy");
    errors.extend(one_of(container.termination_message_policy, &policies, &policy));
    errors.extend(mounts::validate(container, volumes, &path.child("volumeMounts")));
    errors.extend(mounts::validate_devices(container, volumes, &path.child("volumeDevices")));
    errors.extend(mounts::validate_pull_policy(container.image_pull_policy, &path.child("imagePullPolicy")));
    errors.extend(
        container.resources.iter().flat_map(|resources| validate_resources(resources, &path.child("resources"))),
    );
    errors
}

fn validate_name(name: &str, path: &Path) -> ErrorList {
    if name.is_empty() {
        return vec![path.required("")];
    }
    dns_label(name).into_iter().map(|message| path.invalid(name, message)).collect()
}

/// Malformed quantities. (An API server refuses them while decoding; here decoding keeps the text.)
fn validate_resources(resources: &ResourceRequirements, path: &Path) -> ErrorList {
    let lists = [("limits", &resources.limits), ("requests", &resources.requests)];
    let malformed = lists.into_iter().flat_map(|(field, list)| {
        let path = path.child(field);
        list.iter()
            .flatten()
            .filter(|(_, amount)| quantity::nanos(&amount.0).is_none())
            .map(move |(name, amount)| path.key(name).invalid(amount.0.as_str(), quantity::FORMAT_WRONG))
    });
    malformed.collect()
}

fn is_privileged(context: Option<&SecurityContext>) -> bool {
    context.and_then(|context| context.privileged) == Some(true)
}
