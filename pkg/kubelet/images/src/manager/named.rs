//! The image of a request, named as each part needs it.

use imagevol_api::oci::{Reference, ReferenceError};
use imagevol_cri::ImageSpec;

use super::EnsureImage;

/// What a reference without tag and digest gets (Kubernetes, `pkg/kubelet/images/image_manager.go`, `applyDefaultImageTag`).
const DEFAULT_TAG: &str = "latest";

/// The image of a request.
#[derive(Debug)]
pub(super) struct Named {
    /// As its author wrote it: what users see.
    pub(super) written: String,
    /// Parsed, with its default tag.
    pub(super) reference: Reference,
    /// What the image service is asked for.
    pub(super) spec: ImageSpec,
}

// === impl Named ===

impl Named {
    /// The default tag is appended to what is written, which is not normalized: `busybox` is asked for as `busybox:latest`.
    pub(super) fn parse(request: &EnsureImage<'_>) -> Result<Self, ReferenceError> {
        let written = request.reference.to_owned();
        let reference = Reference::parse(&written)?;
        let bare = reference.tag().is_none() && reference.digest().is_none();
        let image = if bare { format!("{written}:{DEFAULT_TAG}") } else { written.clone() };
        let annotations = request.pod.metadata.annotations.clone().unwrap_or_default();
        let platform = request.platform.cloned();
        let spec = ImageSpec { image, user_specified_image: written.clone(), annotations, platform };
        Ok(Self { written, reference: reference.with_default_tag(), spec })
    }
}
