//! What is told of each volume, in reports and in events about sub paths.

use std::collections::BTreeMap;

use imagevol_api::core::container_ref;
use imagevol_api::corev1::Pod;
use imagevol_api::names::{ContainerName, VolumeName};
use imagevol_base::volumes::{SubPathErrors, VolumeReports, VolumeState};
use imagevol_base::{EventKind, EventRecorder};
use imagevol_volume::{Door, Key, Mounted, VolumeError};
use tokio::time::Instant;

use crate::doors::DoorState;
use crate::outcome;
use crate::state::Have;

/// What is told of a volume.
#[derive(Debug)]
pub(crate) struct Shown {
    state: VolumeState,
    sub_path_errors: SubPathErrors,
    failing_since: Option<Instant>,
    /// The most bytes that any attempt had here. Less than that is no progress: blobs that are present count from the start.
    most_bytes: u64,
}

// === impl Shown ===

impl Shown {
    /// What was decided and mounted before a restart is mounted now.
    pub(crate) fn new(have: Option<&Have>) -> Self {
        let image = match have {
            Some(Have::Mounted(image)) => Some(image),
            Some(Have::Uncertain { decided }) => decided.as_ref().map(|decided| &decided.image),
            None => None,
        };
        let mounted = |image: &imagevol_cri::ImageId| VolumeState::Mounted { image: image.digest().clone() };
        let state = image.map_or(VolumeState::Waiting, mounted);
        Self { state, sub_path_errors: SubPathErrors::new(), failing_since: None, most_bytes: 0 }
    }

    /// An attempt begins. What failed before is shown until there is news.
    pub(crate) fn starts(&mut self) {
        if self.state == VolumeState::Waiting {
            self.state = VolumeState::Pulling;
        }
    }

    /// Sub path errors are told to their containers, once: the first of each, which is what keeps it from being created.
    pub(crate) fn mounted(&mut self, pod: &Pod, mounted: Mounted, events: &dyn EventRecorder) {
        self.state = VolumeState::Mounted { image: mounted.image.digest().clone() };
        self.failing_since = None;
        let before = std::mem::replace(&mut self.sub_path_errors, mounted.sub_path_errors);
        if before == self.sub_path_errors {
            return;
        }
        let mut told: Option<&ContainerName> = None;
        for ((container, _), error) in &self.sub_path_errors {
            if told.replace(container) == Some(container) {
                continue;
            }
            if let Some(about) = container_ref(pod, container.as_str()) {
                events.record(&about, EventKind::Warning, "Failed", format!("Error: {}", error.message));
            }
        }
    }

    /// An attempt failed with this many bytes here.
    pub(crate) fn failed(&mut self, volume: &VolumeName, error: &VolumeError, bytes: u64, now: Instant) {
        let progress = bytes > self.most_bytes;
        self.most_bytes = self.most_bytes.max(bytes);
        let since = self.failing_since.filter(|_| !progress).unwrap_or(now);
        self.failing_since = Some(since);
        self.state = VolumeState::Failed(outcome::failure(volume, error, since));
    }

    /// An attempt is under way after a failure: once more bytes are here than ever before, it is as good as a first one.
    pub(crate) fn look(&mut self, bytes: u64) {
        if bytes > self.most_bytes {
            self.most_bytes = bytes;
            self.failing_since = None;
            self.state = VolumeState::Pulling;
        }
    }

    /// What a door is told, of a volume of which this much is there.
    pub(crate) fn to_door(&self, have: Option<&Have>) -> DoorState {
        match (&self.state, have) {
            (VolumeState::Failed(failure), _) => DoorState::Failed(failure.clone()),
            (_, Some(Have::Mounted(image))) => DoorState::Mounted(image.clone()),
            (VolumeState::Waiting, _) => DoorState::Waiting,
            (VolumeState::Mounted { .. }, Some(Have::Uncertain { decided: Some(decided) })) => {
                DoorState::Present(decided.image.clone())
            }
            (VolumeState::Mounted { .. } | VolumeState::Pulling, _) => DoorState::Pulling,
        }
    }

    pub(crate) fn sub_path_errors(&self) -> &SubPathErrors {
        &self.sub_path_errors
    }

    pub(crate) fn is_failed(&self) -> bool {
        matches!(self.state, VolumeState::Failed(_))
    }
}

/// The reports of the volumes of all pods that this agent serves.
pub(crate) fn reports_of(shown: &BTreeMap<Key, Shown>) -> VolumeReports {
    let mut reports = VolumeReports::new();
    for (key, shown) in shown.iter().filter(|(key, _)| key.door == Door::Pod) {
        let report = reports.entry(key.pod.clone()).or_default();
        report.volumes.insert(key.volume.clone(), shown.state.clone());
        report.sub_path_errors.extend(shown.sub_path_errors.clone());
    }
    reports
}
