//! Choices of the configuration.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::corev1::Pod;

/// The annotation with which a pod chooses its own [`PullFailurePolicy`].
pub const PULL_FAILURE_POLICY_ANNOTATION: &str = "imagevol.dev/pull-failure-policy";

/// What becomes of a pod whose image volume cannot be pulled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullFailurePolicy {
    /// The pod fails: at once if the error is final, else after the pull deadline.
    #[default]
    Fail,
    /// The pull is retried for ever.
    Retry,
}

/// How images become mounts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageBackend {
    /// The first of the others that works here, found out by trying.
    #[default]
    Auto,
    /// EROFS on files (Linux 6.12 and later).
    Erofs,
    /// EROFS on loop devices (Linux 6.4 and later).
    ErofsLoop,
}

/// Whether a pod must prove its right to an image that is already there (KEP-2535).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImagePullCredentialsVerificationPolicy {
    /// Never.
    NeverVerify,
    /// Not for images that imagevol did not pull itself.
    #[default]
    NeverVerifyPreloadedImages,
    /// Not for images on the allowlist.
    NeverVerifyAllowlistedImages,
    /// Always.
    AlwaysVerify,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// A value that a choice does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is none of {}", .choices.join(", "))]
pub struct UnknownChoice {
    value: String,
    choices: &'static [&'static str],
}

// === impl PullFailurePolicy ===

impl PullFailurePolicy {
    /// Every value.
    pub const NAMES: &'static [&'static str] = &["Fail", "Retry"];

    /// The pod's own choice; `self` where it makes none. (Validation refuses pods with another one.)
    #[must_use]
    pub fn for_pod(self, pod: &Pod) -> Self {
        let annotation = pod.metadata.annotations.as_ref().and_then(|all| all.get(PULL_FAILURE_POLICY_ANNOTATION));
        annotation.and_then(|policy| policy.parse().ok()).unwrap_or(self)
    }
}

impl FromStr for PullFailurePolicy {
    type Err = UnknownChoice;

    fn from_str(text: &str) -> Result<Self, UnknownChoice> {
        match text {
            "Fail" => Ok(Self::Fail),
            "Retry" => Ok(Self::Retry),
            _ => Err(UnknownChoice { value: text.to_owned(), choices: Self::NAMES }),
        }
    }
}

// === impl ImageBackend ===

impl ImageBackend {
    /// Every value, as the flag and the file take them.
    pub const NAMES: &'static [&'static str] = &["auto", "erofs", "erofs-loop"];

    /// The value's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Erofs => "erofs",
            Self::ErofsLoop => "erofs-loop",
        }
    }
}

impl FromStr for ImageBackend {
    type Err = UnknownChoice;

    fn from_str(text: &str) -> Result<Self, UnknownChoice> {
        match text {
            "auto" => Ok(Self::Auto),
            "erofs" => Ok(Self::Erofs),
            "erofs-loop" => Ok(Self::ErofsLoop),
            _ => Err(UnknownChoice { value: text.to_owned(), choices: Self::NAMES }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_value() {
        assert!(ImageBackend::NAMES.iter().all(|name| name.parse::<ImageBackend>().unwrap().as_str() == *name));
        assert!(
            PullFailurePolicy::NAMES
                .iter()
                .all(|name| format!("{:?}", name.parse::<PullFailurePolicy>().unwrap()) == *name)
        );
        assert_eq!("x".parse::<ImageBackend>().unwrap_err().to_string(), r#""x" is none of auto, erofs, erofs-loop"#);
    }

    #[test]
    fn a_pod_chooses_for_itself() {
        let mut pod = Pod::default();
        assert_eq!(PullFailurePolicy::Fail.for_pod(&pod), PullFailurePolicy::Fail);
        let annotation = (PULL_FAILURE_POLICY_ANNOTATION.to_owned(), "Retry".to_owned());
        pod.metadata.annotations = Some([annotation].into());
        assert_eq!(PullFailurePolicy::Fail.for_pod(&pod), PullFailurePolicy::Retry);
    }
}
