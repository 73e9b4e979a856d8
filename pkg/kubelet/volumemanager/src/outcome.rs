//! What follows from the end of an attempt: what is shown, and when to try again. Pure.

use std::time::Duration;

use imagevol_base::EventKind;
use imagevol_base::volumes::{Outlook, VolumeFailure};
use imagevol_volume::VolumeError;
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) about: About,
    pub(crate) kind: EventKind,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// Whom an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum About {
    Pod,
    /// The first container that mounts the volume; nobody if none does.
    Container,
}

/// When a failure is tried again.
pub(crate) fn retry(error: &VolumeError) -> Retry {
    let Some(error) = error.as_image() else { return Retry::Backoff };
    match (error.retry_in(), error.reason()) {
        (Some(remaining), _) => Retry::In(remaining),
        (None, "ErrImageNeverPull" | "InvalidImageName" | "ImageInspectError") => Retry::In(SYNC),
        (None, _) => Retry::In(BACK_OFF_REPORT),
    }
}

/// The event beside the image manager's own (kuberuntime_manager.go, `toKubeContainerImageVolumes`; operation_generator.go).
pub(crate) fn told(volume: &str, error: &VolumeError) -> Told {
    let (about, reason, message) = match error.as_image() {
        Some(error) => (About::Container, "Failed", format!("Error: {}", error.reason())),
        None => (About::Pod, "FailedMount", format!("MountVolume.SetUp failed for volume {volume:?} : {error}")),
    };
    Told { about, kind: EventKind::Warning, reason, message }
}

/// What the pod's status shows.
pub(crate) fn failure(volume: &str, error: &VolumeError, failing_since: Instant) -> VolumeFailure {
    let passing = Outlook::Passing { failing_since };
    match error.as_image() {
        Some(error) => {
            let outlook = if error.is_final() { Outlook::Final } else { passing };
            VolumeFailure { reason: error.reason(), message: error.message(), outlook }
        }
        None => {
            let message = format!("MountVolume.SetUp failed for volume {volume:?} : {error}");
            VolumeFailure { reason: "FailedMount", message, outlook: passing }
        }
    }
}
