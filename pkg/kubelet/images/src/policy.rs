//! What to do next for one image of one pod: the decision of the kubelet's `EnsureImageExists`, without any of its I/O.
//!
//! Facts go in as they become known, the next step comes out. The order of the steps is the kubelet's: parse, look at the local
//! copy, may the pod use it, denial by `Never`, credentials, intent, back-off, pull (`pkg/kubelet/images/image_manager.go`).

use std::str::FromStr;

/// `pullPolicy` of an image volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PullPolicy {
    /// Ask the registry each time; a local copy is not even looked at.
    Always,
    /// Ask the registry where there is no local copy that the pod may use.
    IfNotPresent,
    /// Never ask the registry.
    Never,
}

/// The string is none of `Always`, `IfNotPresent`, `Never`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown pull policy {0:?}")]
pub struct PullPolicyError(String);

/// What is known so far. `None`: nobody has looked yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Does the reference parse? This is found out without asking anybody, before all else.
    pub(crate) reference: Outcome,
    /// Is there a local copy?
    pub(crate) local: Option<Local>,
    /// May the pod use the local copy?
    pub(crate) access: Option<Access>,
    /// Are the pod's credentials known?
    pub(crate) credentials: Option<Outcome>,
    /// Is it on disk that a pull begins?
    pub(crate) intent: Option<Outcome>,
    /// Has the last failure been long enough ago?
    pub(crate) backoff: Option<Backoff>,
}

/// How something ended that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is done.
    Done,
    /// It failed.
    Failed,
}

/// What the image service says about a local copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Local {
    /// There is one.
    Present,
    /// There is none.
    Absent,
    /// It could not say.
    Failed,
}

/// Whether a pod may use a local copy without asking the registry (KEP-2535).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// It may.
    Allowed,
    /// It has to prove its right by a pull.
    Denied,
    /// Nobody knows.
    Failed,
}

/// Whether a failed pull has to wait before it is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backoff {
    /// It need not wait.
    Clear,
    /// It has to wait.
    Waiting,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask the image service for a local copy; tells `local`.
    Inspect,
    /// Ask the pull records whether the pod may use the local copy; tells `access`.
    CheckAccess,
    /// Look up the pod's credentials; tells `credentials`.
    LookUpCredentials,
    /// Put the intent to pull on disk; tells `intent`.
    RecordIntent,
    /// Look whether an earlier failure is too recent; tells `backoff`.
    CheckBackoff,
    /// Pull, and be done.
    Pull,
    /// Use the local copy, and be done.
    UseLocal,
    /// Give up for this time.
    Refuse(Refusal),
}

/// Why it is given up before a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The reference does not parse.
    InvalidName,
    /// The image service could not be asked.
    Inspection,
    /// The policy forbids a pull, and there is no local copy that the pod may use.
    NeverPull,
    /// It could not be found out whether the pod may use the local copy.
    Access,
    /// The pod's credentials could not be found out.
    Credentials,
    /// The intent could not be recorded.
    Intent,
    /// An earlier failure is too recent.
    BackOff,
}

/// Yes, no, or not found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Known {
    /// Yes.
    True,
    /// No.
    False,
    /// Not found out.
    Unknown,
}

// === impl PullPolicy ===

impl PullPolicy {
    /// As a pod writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

impl FromStr for PullPolicy {
    type Err = PullPolicyError;

    fn from_str(text: &str) -> Result<Self, PullPolicyError> {
        let all = [Self::Always, Self::IfNotPresent, Self::Never];
        all.into_iter().find(|policy| policy.as_str() == text).ok_or_else(|| PullPolicyError(text.to_owned()))
    }
}

// === impl Facts ===

impl Facts {
    /// What is known at the beginning.
    pub(crate) fn of(reference: Outcome) -> Self {
        Self { reference, local: None, access: None, credentials: None, intent: None, backoff: None }
    }

    /// Whether a local copy was there, as `kubelet_image_manager_ensure_image_requests_total` counts it.
    pub(crate) fn present_locally(self) -> Known {
        match self.local {
            Some(Local::Present) => Known::True,
            Some(Local::Absent) => Known::False,
            Some(Local::Failed) | None => Known::Unknown,
        }
    }

    /// Whether the registry had to be asked, as the same metric counts it.
    pub(crate) fn pull_required(self, policy: PullPolicy) -> Known {
        match (self.reference, policy, self.local, self.access) {
            (Outcome::Done, PullPolicy::Always, ..)
            | (_, PullPolicy::IfNotPresent, Some(Local::Absent), _)
            | (_, _, Some(Local::Present), Some(Access::Denied)) => Known::True,
            (_, _, Some(Local::Present), Some(Access::Allowed)) => Known::False,
            _ => Known::Unknown,
        }
    }
}

// === impl Known ===

impl Known {
    /// As the metric's label has it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::True => "true",
            Self::False => "false",
            Self::Unknown => "unknown",
        }
    }
}

/// What to do next. Ends: each step but the last three fills in the fact that it is asked for.
pub(crate) fn next_step(policy: PullPolicy, facts: Facts) -> Step {
    match facts.reference {
        Outcome::Failed => Step::Refuse(Refusal::InvalidName),
        Outcome::Done => local_step(policy, facts).unwrap_or_else(|| pull_step(facts)),
    }
}

/// What the local copy asks for; `None` if the registry has to be asked.
fn local_step(policy: PullPolicy, facts: Facts) -> Option<Step> {
    let denied = (policy == PullPolicy::Never).then_some(Step::Refuse(Refusal::NeverPull));
    match (policy, facts.local, facts.access) {
        (PullPolicy::Always, ..) => None,
        (_, None, _) => Some(Step::Inspect),
        (_, Some(Local::Failed), _) => Some(Step::Refuse(Refusal::Inspection)),
        (_, Some(Local::Absent), _) | (_, Some(Local::Present), Some(Access::Denied)) => denied,
        (_, Some(Local::Present), None) => Some(Step::CheckAccess),
        (_, Some(Local::Present), Some(Access::Failed)) => Some(Step::Refuse(Refusal::Access)),
        (_, Some(Local::Present), Some(Access::Allowed)) => Some(Step::UseLocal),
    }
}

/// What a pull asks for.
fn pull_step(facts: Facts) -> Step {
    match (facts.credentials, facts.intent, facts.backoff) {
        (None, ..) => Step::LookUpCredentials,
        (Some(Outcome::Failed), ..) => Step::Refuse(Refusal::Credentials),
        (_, None, _) => Step::RecordIntent,
        (_, Some(Outcome::Failed), _) => Step::Refuse(Refusal::Intent),
        (_, _, None) => Step::CheckBackoff,
        (_, _, Some(Backoff::Waiting)) => Step::Refuse(Refusal::BackOff),
        (_, _, Some(Backoff::Clear)) => Step::Pull,
    }
}

#[cfg(test)]
mod tests;
