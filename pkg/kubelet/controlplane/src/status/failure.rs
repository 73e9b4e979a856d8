//! When a pod whose image volume cannot be mounted has failed for good.

use std::time::Duration;

use tokio::time::Instant;

use imagevol_api::config::PullFailurePolicy;
use imagevol_api::corev1::Pod;
use imagevol_api::duration::Duration as GoDuration;
use imagevol_base::volumes::{Outlook, PodVolumeReport, VolumeFailure, VolumeState};

use super::image_volumes;

/// How this node treats pull failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PullFailure {
    /// For pods that do not choose.
    pub policy: PullFailurePolicy,
    /// How long passing errors may go on, from the first one since bytes last came in.
    pub deadline: Duration,
}

/// A pod's end, for its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

// === impl PullFailure ===

impl PullFailure {
    /// Whether a pod has failed for good: the first such volume in the order of the spec.
    pub(super) fn verdict(&self, pod: &Pod, report: &PodVolumeReport, now: Instant) -> Option<Verdict> {
        failures(self.policy.for_pod(pod), pod, report).find_map(|(volume, failure)| match failure.outlook {
            Outlook::Final => Some(Verdict::new(volume, failure, "")),
            Outlook::Passing { failing_since } if now >= failing_since + self.deadline => {
                let patience = format!(" (gave up after {} without progress)", GoDuration::from(self.deadline));
                Some(Verdict::new(volume, failure, &patience))
            }
            Outlook::Passing { .. } => None,
        })
    }

    /// When a pod fails if its report does not change until then.
    pub(crate) fn due(&self, pod: &Pod, report: &PodVolumeReport) -> Option<Instant> {
        let passing = |(_, failure): (&str, &VolumeFailure)| match failure.outlook {
            Outlook::Final => None,
            Outlook::Passing { failing_since } => Some(failing_since + self.deadline),
        };
        failures(self.policy.for_pod(pod), pod, report).filter_map(passing).min()
    }
}

// === impl Verdict ===

impl Verdict {
    fn new(volume: &str, failure: &VolumeFailure, more: &str) -> Self {
        Self { reason: failure.reason, message: format!("volume {volume:?}: {}{more}", failure.message) }
    }
}

/// The failed image volumes, none where the pod waits for ever.
fn failures<'a>(
    policy: PullFailurePolicy,
    pod: &'a Pod,
    report: &'a PodVolumeReport,
) -> impl Iterator<Item = (&'a str, &'a VolumeFailure)> {
    let fatal = policy == PullFailurePolicy::Fail;
    image_volumes(pod, report).filter(move |_| fatal).filter_map(|(name, state)| match state {
        VolumeState::Failed(failure) => Some((name, failure)),
        VolumeState::Waiting | VolumeState::Pulling | VolumeState::Mounted { .. } => None,
    })
}
