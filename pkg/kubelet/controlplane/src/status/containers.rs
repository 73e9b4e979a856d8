//! Statuses of containers that nobody has started: all wait, and some of them for a volume.

use std::collections::BTreeMap;

use imagevol_api::corev1::{
    Container, ContainerState, ContainerStateWaiting, ContainerStatus, EphemeralContainer, ImageVolumeStatus, Pod,
    PodSpec, VolumeMount, VolumeMountStatus, VolumeStatus,
};
use imagevol_base::volumes::{PodVolumeReport, VolumeState};

use crate::text::one_line;

use super::{MAX_MESSAGE, image_volumes};

/// Reason of a container that waits for nothing in particular (kubelet `convertToAPIContainerStatuses`).
const CONTAINER_CREATING: &str = "ContainerCreating";
/// The same in a pod with init containers.
const POD_INITIALIZING: &str = "PodInitializing";

/// What the three kinds of containers have in common.
struct Described<'a> {
    name: &'a str,
    image: Option<&'a str>,
    mounts: &'a [VolumeMount],
}

/// A pod with what is known of its volumes.
pub(super) struct Containers<'a> {
    spec: Option<&'a PodSpec>,
    report: &'a PodVolumeReport,
    volumes: BTreeMap<&'a str, &'a VolumeState>,
}

// === impl Containers ===

impl<'a> Containers<'a> {
    /// The containers of a pod.
    pub(super) fn new(pod: &'a Pod, report: &'a PodVolumeReport) -> Self {
        Self { spec: pod.spec.as_ref(), report, volumes: image_volumes(pod, report).collect() }
    }

    /// `status.containerStatuses`.
    pub(super) fn regular(&self) -> Option<Vec<ContainerStatus>> {
        let spec = self.spec?;
        self.statuses(spec.containers.iter().map(Described::from))
    }

    /// `status.initContainerStatuses`.
    pub(super) fn init(&self) -> Option<Vec<ContainerStatus>> {
        let spec = self.spec?;
        self.statuses(spec.init_containers.iter().flatten().map(Described::from))
    }

    /// `status.ephemeralContainerStatuses`.
    pub(super) fn ephemeral(&self) -> Option<Vec<ContainerStatus>> {
        let spec = self.spec?;
        self.statuses(spec.ephemeral_containers.iter().flatten().map(Described::from))
    }

    fn statuses(&self, of: impl Iterator<Item = Described<'a>>) -> Option<Vec<ContainerStatus>> {
        let statuses: Vec<_> = of.map(|container| self.status(&container)).collect();
        (!statuses.is_empty()).then_some(statuses)
    }

    fn status(&self, container: &Described<'_>) -> ContainerStatus {
        let mounts: Vec<_> = container.mounts.iter().map(|mount| self.mount_status(mount)).collect();
        ContainerStatus {
            name: container.name.to_owned(),
            image: container.image.unwrap_or_default().to_owned(),
            state: Some(ContainerState { waiting: Some(self.waiting(container)), ..ContainerState::default() }),
            last_state: Some(ContainerState::default()),
            started: Some(false),
            volume_mounts: (!mounts.is_empty()).then_some(mounts),
            ..ContainerStatus::default()
        }
    }

    /// The last failing image in mount order (kubelet `toKubeContainerImageVolumes`); a sub path is looked at only when all images
    /// are there, and the first that fails ends it.
    fn waiting(&self, container: &Described<'_>) -> ContainerStateWaiting {
        let failed = container.mounts.iter().rev().find_map(|mount| match self.volume(&mount.name)? {
            VolumeState::Failed(failure) => Some((failure.reason, failure.message.as_str())),
            VolumeState::Waiting | VolumeState::Pulling | VolumeState::Mounted { .. } => None,
        });
        let failed = failed.or_else(|| self.sub_path_error(container.name));
        let (reason, message) = match failed {
            Some((reason, message)) => (reason, Some(one_line(message, MAX_MESSAGE))),
            None if self.has_init_containers() => (POD_INITIALIZING, None),
            None => (CONTAINER_CREATING, None),
        };
        ContainerStateWaiting { reason: Some(reason.to_owned()), message }
    }

    fn sub_path_error(&self, container: &str) -> Option<(&'static str, &'a str)> {
        let of_container = self.report.sub_path_errors.iter().find(|((name, _), _)| name.as_str() == container);
        of_container.map(|(_, error)| (error.reason, error.message.as_str()))
    }

    /// As the spec says it, not as it is mounted: image volumes are read-only whatever `readOnly` is.
    fn mount_status(&self, mount: &VolumeMount) -> VolumeMountStatus {
        let read_only = mount.read_only.filter(|read_only| *read_only);
        VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only,
            recursive_read_only: read_only.map(|_| recursive_read_only(mount).to_owned()),
            volume_status: self
                .image_ref(&mount.name)
                .map(|image_ref| VolumeStatus { image: Some(ImageVolumeStatus { image_ref }) }),
        }
    }

    fn image_ref(&self, volume: &str) -> Option<String> {
        match self.volume(volume)? {
            VolumeState::Mounted { image } => Some(image.to_string()),
            VolumeState::Waiting | VolumeState::Pulling | VolumeState::Failed(_) => None,
        }
    }

    fn volume(&self, name: &str) -> Option<&'a VolumeState> {
        self.volumes.get(name).copied()
    }

    fn has_init_containers(&self) -> bool {
        let init = self.spec.and_then(|spec| spec.init_containers.as_ref());
        init.is_some_and(|containers| !containers.is_empty())
    }
}

impl<'a> From<&'a Container> for Described<'a> {
    fn from(container: &'a Container) -> Self {
        let mounts = container.volume_mounts.as_deref().unwrap_or_default();
        Self { name: &container.name, image: container.image.as_deref(), mounts }
    }
}

impl<'a> From<&'a EphemeralContainer> for Described<'a> {
    fn from(container: &'a EphemeralContainer) -> Self {
        let mounts = container.volume_mounts.as_deref().unwrap_or_default();
        Self { name: &container.name, image: container.image.as_deref(), mounts }
    }
}

/// Kubelet `resolveRecursiveReadOnly`. A mounted image has no mounts below it, so recursion is always possible.
fn recursive_read_only(mount: &VolumeMount) -> &'static str {
    match mount.recursive_read_only.as_deref() {
        Some("Enabled" | "IfPossible") => "Enabled",
        Some(_) | None => "Disabled",
    }
}
