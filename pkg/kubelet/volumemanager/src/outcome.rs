//! What follows from the end of an attempt: what is shown, and when to try again. Pure.

use std::time::Duration;

use imagevol_api::core::{container_ref, pod_ref};
use imagevol_api::corev1::{ObjectReference, Pod};
use imagevol_api::names::VolumeName;
use imagevol_base::volumes::{FailureCause, Outlook, VolumeFailure};
use imagevol_base::{EventKind, EventRecorder};
use imagevol_cri::ImageServiceError;
use imagevol_images::{ImageError, PullError};
use imagevol_volume::VolumeError;
use imagevol_volume::sub_path::first_container_of;
use tokio::time::Instant;

/// After a failed pull the back-off is told this much later: `ErrImagePull` can be seen before `ImagePullBackOff` takes its place.
const BACK_OFF_REPORT: Duration = Duration::from_secs(1);
/// How often what does not count as a failed pull is looked at again: the kubelet's retry of a failed pod sync (pod_workers.go,
/// `workerBackOffPeriod`, 10 s).
const SYNC: Duration = Duration::from_secs(10);

/// When to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    /// After this long.
    In(Duration),
    /// When the volume's own back-off ends: the node failed, not the image.
    Backoff,
}

/// An event that follows from a failure.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Told {
    /// Nobody is told if no container mounts the volume.
    pub(crate) about: Option<ObjectReference>,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

// === impl Told ===

impl Told {
    pub(crate) fn record(self, events: &dyn EventRecorder) {
        if let Some(about) = &self.about {
            events.record(about, EventKind::Warning, self.reason, self.message);
        }
    }
}

/// When a failure is tried again. A failed pull waits for its back-off, which is told first; all else, which has none, for the next
/// look.
pub(crate) fn retry(error: &VolumeError) -> Retry {
    match error.as_image() {
        None => Retry::Backoff,
        Some(ImageError::Pull { .. }) => Retry::In(BACK_OFF_REPORT),
        Some(ImageError::PullBackOff { retry_in, .. }) => Retry::In(*retry_in),
        Some(
            ImageError::NeverPull { .. }
            | ImageError::InvalidName { .. }
            | ImageError::Inspect { .. }
            | ImageError::Credentials { .. }
            | ImageError::Intent { .. },
        ) => Retry::In(SYNC),
    }
}

/// The event beside the image manager's own: about the first container that mounts the volume (kuberuntime_manager.go,
/// `toKubeContainerImageVolumes`), or about the pod if the node failed (operation_generator.go).
pub(crate) fn told(volume: &VolumeName, pod: &Pod, error: &VolumeError) -> Told {
    match error.as_image() {
        Some(error) => {
            let container = first_container_of(pod, volume).and_then(|container| container_ref(pod, container));
            Told { about: container, reason: "Failed", message: format!("Error: {}", error.reason()) }
        }
        None => Told { about: Some(pod_ref(pod)), reason: "FailedMount", message: failed_mount(volume, error) },
    }
}

/// The kubelet only logs it (operation_generator.go, `UnmountVolume.TearDown failed`); the reason is ours.
pub(crate) fn told_unmount(volume: &VolumeName, pod: &Pod, error: &VolumeError) -> Told {
    let message = format!("UnmountVolume.TearDown failed for volume {volume:?} : {}", error.with_causes());
    Told { about: Some(pod_ref(pod)), reason: "FailedUnmount", message }
}

/// What the pod's status shows.
pub(crate) fn failure(volume: &VolumeName, error: &VolumeError, failing_since: Instant) -> VolumeFailure {
    let passing = Outlook::Passing { failing_since };
    let Some(error) = error.as_image() else {
        let (reason, message) = ("FailedMount", failed_mount(volume, error));
        return VolumeFailure { reason, message, outlook: passing, cause: FailureCause::Node };
    };
    let outlook = if error.is_final() { Outlook::Final } else { passing };
    VolumeFailure { reason: error.reason(), message: error.message(), outlook, cause: cause(error) }
}

fn cause(error: &ImageError) -> FailureCause {
    match error {
        ImageError::NeverPull { .. } => FailureCause::NeverPull,
        ImageError::InvalidName { .. } => FailureCause::InvalidName,
        ImageError::Credentials { .. } => FailureCause::Credentials,
        ImageError::Intent { .. } => FailureCause::Node,
        ImageError::Inspect { source, .. } => cause_of_answer(source),
        ImageError::PullBackOff { last: None, .. } => FailureCause::Unavailable,
        ImageError::PullBackOff { last: Some(error), .. } | ImageError::Pull { source: error, .. } => match error {
            PullError::QpsExceeded => FailureCause::Unavailable,
            PullError::Service(errors) => cause_of_answers(errors.iter()),
        },
    }
}

/// Of several credentials' answers the one that something can be done about: a registry hides what it has from those it refuses.
fn cause_of_answers<'a>(answers: impl Iterator<Item = &'a ImageServiceError>) -> FailureCause {
    let causes: Vec<_> = answers.map(cause_of_answer).collect();
    let worth_telling = [FailureCause::Denied, FailureCause::InvalidContent, FailureCause::NotFound];
    let told = worth_telling.into_iter().find(|cause| causes.contains(cause));
    told.or_else(|| causes.first().copied()).unwrap_or(FailureCause::Node)
}

fn cause_of_answer(error: &ImageServiceError) -> FailureCause {
    match error {
        ImageServiceError::NotFound { .. } => FailureCause::NotFound,
        ImageServiceError::Denied { .. } => FailureCause::Denied,
        ImageServiceError::Invalid { .. }
        | ImageServiceError::SignatureValidation { .. }
        | ImageServiceError::SubPath { .. } => FailureCause::InvalidContent,
        ImageServiceError::Unavailable { .. } => FailureCause::Unavailable,
        ImageServiceError::InUse { .. }
        | ImageServiceError::Cancelled
        | ImageServiceError::NoRoom { .. }
        | ImageServiceError::Node { .. } => FailureCause::Node,
    }
}

fn failed_mount(volume: &VolumeName, error: &VolumeError) -> String {
    format!("MountVolume.SetUp failed for volume {volume:?} : {}", error.with_causes())
}
