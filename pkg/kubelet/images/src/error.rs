//! Why a pod does not have its image, with the reason and the message that its status shows.

use std::fmt;
use std::time::Duration;

use imagevol_api::oci::ReferenceError;
use imagevol_base::EventKind;
use imagevol_cri::ImageServiceError;

use crate::credentials::CredentialError;
use crate::pull_manager::RecordError;
use crate::text;

/// The CRI's name for a registry that cannot be reached (`cri-api/pkg/errors`), the waiting reason too.
const REGISTRY_UNAVAILABLE: &str = "RegistryUnavailable";
/// The CRI's name for a signature that does not hold, the waiting reason too.
const SIGNATURE_VALIDATION_FAILED: &str = "SignatureValidationFailed";
/// The waiting reason of all other failures of a pull.
const ERR_IMAGE_PULL: &str = "ErrImagePull";

/// Why a pod does not have its image. `image` is the reference as its author wrote it.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The last pull failed too recently.
    #[error("pull of image {image:?} is backing off")]
    PullBackOff {
        /// The image.
        image: String,
        /// How much longer to wait.
        retry_in: Duration,
        /// The failure that it waits for, if it is still known.
        last: Option<PullError>,
    },
    /// The policy is `Never`, and there is no local copy that the pod may use.
    #[error("image {image:?} is not present and must not be pulled")]
    NeverPull {
        /// The image.
        image: String,
    },
    /// The reference does not parse.
    #[error("image name {image:?} is invalid")]
    InvalidName {
        /// The image.
        image: String,
        /// What is wrong.
        source: ReferenceError,
    },
    /// The image service could not say whether there is a local copy, or could not bind it.
    #[error("failed to inspect image {image:?}")]
    Inspect {
        /// The image.
        image: String,
        /// Its answer.
        source: ImageServiceError,
    },
    /// The pull failed.
    #[error("failed to pull image {image:?}")]
    Pull {
        /// The image.
        image: String,
        /// Why.
        source: PullError,
    },
    /// Nobody knows what the pod may show: for the pull, or for the use of the local copy.
    #[error("failed to look up credentials for image {image:?}")]
    Credentials {
        /// The image.
        image: String,
        /// Why.
        source: CredentialError,
    },
    /// That a pull begins could not be put on disk, and without that a crash would leave an image that seems preloaded.
    #[error("failed to record pull intent for image {image:?}")]
    Intent {
        /// The image.
        image: String,
        /// Why.
        source: RecordError,
    },
}

/// Why a pull failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    /// The node may not ask registries that often (`registryPullQPS`).
    #[error("pull QPS exceeded")]
    QpsExceeded,
    /// The image service's answers, one for each credential that was tried, or for none.
    #[error("{0}")]
    Service(ServiceErrors),
}

/// Answers of an image service, at least one. They print as Kubernetes' aggregates do: each text once, several in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceErrors {
    first: ImageServiceError,
    others: Vec<ImageServiceError>,
}

/// What is told to the pod's owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) kind: EventKind,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

// === impl ImageError ===

impl ImageError {
    /// The container's waiting reason (Kubernetes, `pkg/kubelet/images/types.go`, `cri-api/pkg/errors`).
    pub fn reason(&self) -> &'static str {
        match self {
            Self::PullBackOff { .. } => "ImagePullBackOff",
            Self::NeverPull { .. } => "ErrImageNeverPull",
            Self::InvalidName { .. } => "InvalidImageName",
            Self::Inspect { .. } => "ImageInspectError",
            Self::Pull { source, .. } => source.reason(),
            // Upstream shows the whole text as the reason.
            Self::Credentials { .. } | Self::Intent { .. } => ERR_IMAGE_PULL,
        }
    }

    /// The container's waiting message.
    pub fn message(&self) -> String {
        match self {
            Self::PullBackOff { image, last, .. } => backing_off(image, last.as_ref()),
            Self::NeverPull { image } => text::never_pull(image),
            Self::InvalidName { image, source } => text::invalid_name(image, &source.to_string()),
            // Upstream quotes an empty string instead of the image.
            Self::Inspect { image, source } => text::inspect_failed(image, &source.to_string()),
            Self::Pull { image, source } => source.message(image),
            Self::Credentials { source, .. } => text::with_causes(source),
            Self::Intent { image, source } => text::intent_failed(image, &text::with_causes(source)),
        }
    }

    /// Whether the same request fails until somebody changes the pod, a secret or the registry.
    pub fn is_final(&self) -> bool {
        match self {
            Self::PullBackOff { last, .. } => last.as_ref().is_some_and(PullError::is_final),
            Self::NeverPull { .. } | Self::InvalidName { .. } => true,
            Self::Inspect { source, .. } => source.is_final(),
            Self::Pull { source, .. } => source.is_final(),
            Self::Credentials { source, .. } => source.is_final(),
            Self::Intent { .. } => false,
        }
    }

    /// How much longer to wait before another try is more than a reminder; `None` if there is no back-off.
    pub fn retry_in(&self) -> Option<Duration> {
        match self {
            Self::PullBackOff { retry_in, .. } => Some(*retry_in),
            Self::NeverPull { .. }
            | Self::InvalidName { .. }
            | Self::Inspect { .. }
            | Self::Pull { .. }
            | Self::Credentials { .. }
            | Self::Intent { .. } => None,
        }
    }

    /// The event that goes with it (Kubernetes, `pkg/kubelet/events/event.go`).
    ///
    /// Upstream has none for credentials and intents: the pod would wait without a word.
    pub(crate) fn notice(&self) -> Notice {
        let (kind, reason) = match self {
            Self::PullBackOff { .. } => (EventKind::Normal, "BackOff"),
            Self::NeverPull { .. } => (EventKind::Warning, "ErrImageNeverPull"),
            Self::InvalidName { .. } | Self::Inspect { .. } => (EventKind::Warning, "InspectFailed"),
            Self::Pull { .. } | Self::Credentials { .. } | Self::Intent { .. } => (EventKind::Warning, "Failed"),
        };
        let message = match self {
            Self::PullBackOff { image, .. } => text::backing_off(image),
            Self::Pull { image, source } => text::pull_failed(image, &source.to_string()),
            Self::Credentials { image, .. } | Self::Intent { image, .. } => text::pull_failed(image, &self.message()),
            Self::NeverPull { .. } | Self::InvalidName { .. } | Self::Inspect { .. } => self.message(),
        };
        Notice { kind, reason, message }
    }
}

fn backing_off(image: &str, last: Option<&PullError>) -> String {
    let text = text::backing_off(image);
    match last {
        Some(last) => format!("{text}: {}: {}", last.reason(), last.message(image)),
        None => text,
    }
}

// === impl PullError ===

impl PullError {
    /// Whether the same pull fails until somebody changes the pod, a secret or the registry: with every credential.
    pub fn is_final(&self) -> bool {
        match self {
            Self::QpsExceeded => false,
            Self::Service(errors) => errors.iter().all(ImageServiceError::is_final),
        }
    }

    /// By the beginning of the text, as the kubelet (`evalCRIPullErr`): a registry that is down is `ErrImagePull` unless the
    /// image service uses the CRI's name for it.
    fn reason(&self) -> &'static str {
        let text = self.to_string();
        let named = [REGISTRY_UNAVAILABLE, SIGNATURE_VALIDATION_FAILED];
        named.into_iter().find(|name| text.starts_with(name)).unwrap_or(ERR_IMAGE_PULL)
    }

    fn message(&self, image: &str) -> String {
        let text = self.to_string();
        if let Some(rest) = text.strip_prefix(REGISTRY_UNAVAILABLE) {
            return format!("image pull failed for {image} because the registry is unavailable{rest}");
        }
        if let Some(rest) = text.strip_prefix(SIGNATURE_VALIDATION_FAILED) {
            return format!("image pull failed for {image} because the signature validation failed{rest}");
        }
        text
    }
}

// === impl ServiceErrors ===

impl ServiceErrors {
    /// The answers in the order in which they came.
    pub fn new(first: ImageServiceError, others: Vec<ImageServiceError>) -> Self {
        Self { first, others }
    }

    /// Adds the next answer.
    pub fn push(&mut self, next: ImageServiceError) {
        self.others.push(next);
    }

    /// The answers in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = &ImageServiceError> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

/// As `k8s.io/apimachinery/pkg/util/errors` prints an aggregate.
impl fmt::Display for ServiceErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut texts: Vec<String> = Vec::new();
        for text in self.iter().map(ToString::to_string) {
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        match texts.as_slice() {
            [only] => f.write_str(only),
            several => write!(f, "[{}]", several.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests;
