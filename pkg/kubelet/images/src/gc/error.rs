//! What goes wrong with a collection, in the kubelet's words.

use std::time::Duration;

use imagevol_api::duration;
use imagevol_api::oci::Digest;
use imagevol_base::collection::{Collection, NotYet};
use imagevol_cri::ImageServiceError;

use super::policy::Disk;

/// Of how many images an error tells that they could not be removed: its text becomes an event.
const FAILURES_TOLD: usize = 3;
const GIB: u64 = 1 << 30;

/// What went wrong with a collection (Kubernetes, `pkg/kubelet/images/image_gc_manager.go`).
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// Nothing is collected yet.
    #[error("nothing was collected")]
    NotYet {
        /// Why.
        source: NotYet,
    },
    /// Nobody knows how full the disk is.
    #[error("failed to get the usage of the image filesystem")]
    Usage {
        /// Why.
        source: ImageServiceError,
    },
    /// The disk is said to hold nothing.
    #[error("invalid capacity 0 on image filesystem")]
    NoCapacity,
    /// The image service did not collect.
    #[error("failed to collect images")]
    Collect {
        /// Why.
        source: ImageServiceError,
    },
    /// Images that nobody has used for long could not be removed.
    #[error("wanted to free images older than {}, encountered errors in image deletion: {failures}", duration::Duration::from(*.max_age))]
    Age {
        /// `imageMaximumGCAge`.
        max_age: Duration,
        /// Which, and why.
        failures: String,
    },
    /// Images could not be removed for space.
    #[error("wanted to free {wanted} bytes, but freed {freed} bytes space with errors in image deletion: {failures}")]
    Space {
        /// Bytes that were to be freed.
        wanted: u64,
        /// Bytes that were.
        freed: u64,
        /// Which images, and why.
        failures: String,
    },
    /// All that may go did, and it was not enough (the text of Kubernetes 1.35 and later).
    #[error(
        "Insufficient free disk space on the node's image filesystem ({used_percent}% of {capacity} GiB used). Failed to free \
         sufficient space by deleting unused images (freed {freed} bytes). Investigate disk usage, as it could be used by active \
         images, logs, volumes, or other data."
    )]
    Insufficient {
        /// How full the disk was.
        used_percent: u8,
        /// How large it is, in GiB.
        capacity: String,
        /// Bytes that were freed.
        freed: u64,
    },
}

// === impl GcError ===

impl GcError {
    /// What went wrong when images were removed for their age.
    pub(super) fn of_age(max_age: Duration, collection: &Collection) -> Option<Self> {
        Some(Self::Age { max_age, failures: failures(&collection.failed)? })
    }

    /// What went wrong when `wanted` bytes were to be freed. The kubelet keeps quiet about a disk that stays full as long as one image
    /// cannot be removed.
    pub(super) fn of_space(wanted: u64, disk: Disk, collection: &Collection) -> Vec<Self> {
        let freed = collection.freed_bytes();
        let failures = failures(&collection.failed).map(|failures| Self::Space { wanted, freed, failures });
        let short = (freed < wanted).then(|| Self::Insufficient {
            used_percent: disk.used_percent(),
            capacity: in_gib(disk.capacity()),
            freed,
        });
        failures.into_iter().chain(short).collect()
    }

    /// The reason of the event that is told at once (Kubernetes, `pkg/kubelet/events/event.go`).
    pub(super) fn event(&self) -> Option<&'static str> {
        match self {
            Self::NoCapacity => Some("InvalidDiskCapacity"),
            Self::Insufficient { .. } => Some("FreeDiskSpaceFailed"),
            Self::NotYet { .. } | Self::Usage { .. } | Self::Collect { .. } | Self::Age { .. } | Self::Space { .. } => {
                None
            }
        }
    }

    /// Whether the same may work in a moment: the node has just started.
    pub fn is_not_yet(&self) -> bool {
        matches!(self, Self::NotYet { .. })
    }

    /// Whether there is no outcome to speak of.
    pub(super) fn is_of_the_whole(&self) -> bool {
        match self {
            Self::NotYet { .. } | Self::Usage { .. } | Self::NoCapacity | Self::Collect { .. } => true,
            Self::Age { .. } | Self::Space { .. } | Self::Insufficient { .. } => false,
        }
    }

    /// The error with its causes, for people.
    pub fn message(&self) -> String {
        crate::text::with_causes(self)
    }
}

/// Several texts as `k8s.io/apimachinery/pkg/util/errors` prints them: one alone as it is, more in brackets.
pub(super) fn aggregate(texts: impl Iterator<Item = String>) -> String {
    let texts: Vec<_> = texts.collect();
    match texts.as_slice() {
        [only] => only.clone(),
        several => format!("[{}]", several.join(", ")),
    }
}

fn failures(failed: &[(Digest, String)]) -> Option<String> {
    let more = failed.len().saturating_sub(FAILURES_TOLD);
    let rest = (more > 0).then(|| format!("and {more} more"));
    let told = failed.iter().take(FAILURES_TOLD).map(|(image, why)| format!("{image}: {why}"));
    (!failed.is_empty()).then(|| aggregate(told.chain(rest)))
}

/// One decimal, as the kubelet's `%.1f`.
fn in_gib(bytes: u64) -> String {
    let tenths = (u128::from(bytes) * 10 + u128::from(GIB) / 2) / u128::from(GIB);
    format!("{}.{}", tenths / 10, tenths % 10)
}
