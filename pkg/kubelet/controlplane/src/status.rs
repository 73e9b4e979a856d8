//! The status of a pod whose containers nobody here starts: what a kubelet would report up to that point.
//!
//! Pure: pod, report of its volumes, time and the status before go in; the status comes out. A pod whose volumes are all mounted is `Pending`
//! with `PodReadyToStartContainers` and `imagevol.dev/VolumesMounted` true. Once `Failed` it stays so.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio::time::Instant;

use imagevol_api::core;
use imagevol_api::corev1::{Pod, PodCondition, PodStatus};
use imagevol_api::metav1::Time;
use imagevol_api::names::ContainerName;
use imagevol_base::volumes::{PodVolumeReport, SubPathError, VolumeState};

use crate::text::one_line;

mod containers;
mod failure;

pub use failure::PullFailure;

use containers::Containers;
use failure::Verdict;

/// Condition of a pod all of whose image volumes and sub paths are mounted.
pub const VOLUMES_MOUNTED: &str = "imagevol.dev/VolumesMounted";
/// `status.phase` of a pod that waits, for volumes or for a container runtime.
pub const PENDING: &str = "Pending";
/// `status.phase` of a pod that has failed for good.
pub const FAILED: &str = "Failed";
/// Reason of [`VOLUMES_MOUNTED`] while an image is looked up or pulled.
pub const PULLING: &str = "Pulling";
/// Reason of [`VOLUMES_MOUNTED`] while nothing is decided yet.
pub const WAITING: &str = "Waiting";
/// Bytes of a message that somebody else wrote, as in events.
const MAX_MESSAGE: usize = 4096;

/// Everything that a pod's status is made of.
#[derive(Debug, Clone, Copy)]
pub struct StatusInput<'a> {
    /// The pod, with its defaults.
    pub pod: &'a Pod,
    /// What became of its volumes.
    pub report: &'a PodVolumeReport,
    /// What time it is.
    pub now: Now,
    /// How this node treats pull failures.
    pub pull_failure: PullFailure,
    /// The status before.
    pub previous: Option<&'a PodStatus>,
}

/// A moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For people.
    pub wall: Timestamp,
    /// For waiting.
    pub instant: Instant,
}

/// The pod's status now.
pub fn pod_status(input: StatusInput<'_>) -> PodStatus {
    if let Some(failed) = input.previous.filter(|previous| is_failed(previous)) {
        return failed.clone();
    }
    let StatusInput { pod, report, now, .. } = input;
    let verdict = input.pull_failure.verdict(pod, report, now.instant);
    let containers = Containers::new(pod, report);
    let phase = if verdict.is_some() { FAILED } else { PENDING };
    PodStatus {
        conditions: Some(conditions(input, verdict.as_ref())),
        container_statuses: containers.regular(),
        ephemeral_container_statuses: containers.ephemeral(),
        init_container_statuses: containers.init(),
        phase: Some(phase.to_owned()),
        qos_class: Some(core::qos_class(pod).as_str().to_owned()),
        reason: verdict.as_ref().map(|verdict| verdict.reason.to_owned()),
        message: verdict.as_ref().map(|verdict| one_line(&verdict.message, MAX_MESSAGE)),
        start_time: input.previous.and_then(|before| before.start_time.clone()).or(Some(Time(now.wall))),
        ..PodStatus::default()
    }
}

/// Whether a pod has failed for good.
pub fn is_failed(status: &PodStatus) -> bool {
    status.phase.as_deref() == Some(FAILED)
}

/// The image volumes of a pod in the order of its spec. One that the report does not name is waiting.
pub(crate) fn image_volumes<'a>(
    pod: &'a Pod,
    report: &'a PodVolumeReport,
) -> impl Iterator<Item = (&'a str, &'a VolumeState)> {
    let known: BTreeMap<_, _> = report.volumes.iter().map(|(name, state)| (name.as_str(), state)).collect();
    core::image_volumes(pod).map(move |(volume, _)| {
        let name = volume.name.as_str();
        (name, known.get(name).copied().unwrap_or(&VolumeState::Waiting))
    })
}

/// In the kubelet's order (`kubelet_pods.go`, `generateAPIPodStatus`), ours last.
fn conditions(input: StatusInput<'_>, verdict: Option<&Verdict>) -> Vec<PodCondition> {
    let failed = verdict.is_some();
    let ready_to_start = if failed { unmet("PodReadyToStartContainers") } else { met("PodReadyToStartContainers") };
    let mut conditions = vec![
        ready_to_start,
        initialized(input.pod),
        ready("Ready", input.pod, failed),
        ready("ContainersReady", input.pod, failed),
        met("PodScheduled"),
        volumes_mounted(input.pod, input.report),
    ];
    for condition in &mut conditions {
        condition.last_transition_time = Some(last_transition(condition, input));
    }
    conditions
}

/// Of the condition before, if it had the same status (kubelet `updateLastTransitionTime`).
fn last_transition(condition: &PodCondition, input: StatusInput<'_>) -> Time {
    let before = input.previous.and_then(|previous| previous.conditions.as_ref());
    let same = |old: &&PodCondition| old.type_ == condition.type_ && old.status == condition.status;
    let time = before.and_then(|before| before.iter().find(same)).and_then(|old| old.last_transition_time.clone());
    time.unwrap_or(Time(input.now.wall))
}

/// No init container has run, since nobody here runs containers (kubelet `GenerateInitializedCondition`).
fn initialized(pod: &Pod) -> PodCondition {
    let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let names: Vec<_> = init.map(|container| container.name.as_str()).collect();
    if names.is_empty() {
        return met("Initialized");
    }
    let message = format!("containers with incomplete status: [{}]", names.join(" "));
    because("Initialized", "ContainersNotInitialized", message)
}

/// Kubelet `GenerateContainersReadyCondition` and `GeneratePodReadyCondition`: sidecars count as containers.
fn ready(type_: &str, pod: &Pod, failed: bool) -> PodCondition {
    if failed {
        return PodCondition { reason: Some("PodFailed".to_owned()), ..unmet(type_) };
    }
    let spec = pod.spec.iter();
    let sidecars = spec.clone().flat_map(|spec| spec.init_containers.iter().flatten());
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let containers = sidecars.chain(spec.flat_map(|spec| &spec.containers));
    let names: Vec<_> = containers.map(|container| container.name.as_str()).collect();
    because(type_, "ContainersNotReady", format!("containers with unready status: [{}]", names.join(" ")))
}

/// The worst news decides: failed images, then sub paths, then what is under way.
fn volumes_mounted(pod: &Pod, report: &PodVolumeReport) -> PodCondition {
    let mut failed = Vec::new();
    let (mut pulling, mut waiting) = (Vec::new(), Vec::new());
    for (name, state) in image_volumes(pod, report) {
        match state {
            VolumeState::Failed(failure) => {
                failed.push((failure.reason, format!("volume {name:?}: {}", failure.message)));
            }
            VolumeState::Pulling => pulling.push(name),
            VolumeState::Waiting => waiting.push(name),
            VolumeState::Mounted { .. } => {}
        }
    }
    if failed.is_empty() {
        let sub_path = |((name, _), error): (&(_, u32), &SubPathError)| (error.reason, named_sub_path(name, error));
        failed.extend(report.sub_path_errors.iter().map(sub_path));
    }
    if let Some((reason, _)) = failed.first() {
        let messages: Vec<_> = failed.iter().map(|(_, message)| message.as_str()).collect();
        return because(VOLUMES_MOUNTED, reason, one_line(&messages.join("; "), MAX_MESSAGE));
    }
    if !pulling.is_empty() {
        return because(VOLUMES_MOUNTED, PULLING, format!("images of volumes being pulled: [{}]", pulling.join(" ")));
    }
    if !waiting.is_empty() {
        return because(VOLUMES_MOUNTED, WAITING, format!("volumes waiting: [{}]", waiting.join(" ")));
    }
    met(VOLUMES_MOUNTED)
}

fn named_sub_path(container: &ContainerName, error: &SubPathError) -> String {
    format!("container {container:?}: {}", error.message)
}

fn met(type_: &str) -> PodCondition {
    PodCondition { type_: type_.to_owned(), status: "True".to_owned(), ..PodCondition::default() }
}

fn unmet(type_: &str) -> PodCondition {
    PodCondition { type_: type_.to_owned(), status: "False".to_owned(), ..PodCondition::default() }
}

fn because(type_: &str, reason: &str, message: String) -> PodCondition {
    PodCondition { reason: Some(reason.to_owned()), message: Some(message), ..unmet(type_) }
}

#[cfg(test)]
mod tests;
