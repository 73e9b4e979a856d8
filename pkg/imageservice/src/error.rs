//! Errors of registry, store and kernel in the words of the image service: one line that says the whole chain.

use imagevol_api::oci::{Digest, Reference};
use imagevol_api::text::chain;
use imagevol_cri::ImageServiceError;
use imagevol_layout::LayoutError;
use imagevol_mount::MountError;
use imagevol_registry::RegistryError;
use imagevol_store::StoreError;

use crate::plan::PlanError;

pub(crate) fn of_registry(error: &RegistryError) -> ImageServiceError {
    let message = chain(error);
    // Nobody was asked: the node's own configuration is at fault.
    let nodes_own = matches!(
        error,
        RegistryError::NoEndpoint { .. } | RegistryError::Configuration { .. } | RegistryError::Internal { .. }
    );
    if matches!(error, RegistryError::NotFound(_)) {
        ImageServiceError::NotFound { message }
    } else if matches!(error, RegistryError::Denied(_) | RegistryError::Unauthorized(_)) {
        ImageServiceError::Denied { message }
    } else if nodes_own {
        ImageServiceError::Node { message }
    } else if error.is_final() {
        ImageServiceError::Invalid { message }
    } else {
        ImageServiceError::Unavailable { message }
    }
}

pub(crate) fn of_store(error: &StoreError) -> ImageServiceError {
    let message = chain(error);
    if let StoreError::InUse(holders) = error {
        ImageServiceError::InUse { holders: holders.clone() }
    } else if let StoreError::Pinned(pins) = error {
        ImageServiceError::InUse { holders: pins.iter().map(|pin| format!("pin {pin}")).collect() }
    } else if matches!(error, StoreError::NoImage(_)) {
        ImageServiceError::NotFound { message }
    } else if error.is_no_space() {
        no_room(&message)
    } else if error.is_content() {
        ImageServiceError::Invalid { message }
    } else {
        ImageServiceError::Node { message }
    }
}

fn no_room(message: &str) -> ImageServiceError {
    let hint = "remove other files, or images that nobody needs";
    ImageServiceError::NoRoom { message: format!("not enough disk space: {message}; {hint}") }
}

pub(crate) fn of_layout(error: &LayoutError) -> ImageServiceError {
    let message = chain(error);
    if error.is_full() {
        no_room(&message)
    } else if error.is_content() {
        ImageServiceError::Invalid { message }
    } else {
        ImageServiceError::Node { message }
    }
}

pub(crate) fn of_plan(error: &PlanError) -> ImageServiceError {
    ImageServiceError::Invalid { message: chain(error) }
}

/// What is wrong with the bytes that came for a layer or a file of an artifact. Says which, and that nothing of them is kept.
pub(crate) fn content_of(layer: &Digest, error: &StoreError) -> ImageServiceError {
    ImageServiceError::Invalid { message: format!("layer {layer}: {}; it is not stored", chain(error)) }
}

/// Says whose content is wrong: whoever reads of it in a pod's status sees the one line alone. Other errors name what they are about.
pub(crate) fn of_image(reference: &Reference, error: ImageServiceError) -> ImageServiceError {
    let ImageServiceError::Invalid { message } = error else { return error };
    ImageServiceError::Invalid { message: format!("image {reference}: {message}") }
}

pub(crate) fn of_mount(error: &MountError) -> ImageServiceError {
    let message = chain(error);
    let sub_path = matches!(
        error,
        MountError::SubPathNotFound { .. } | MountError::SubPathKind { .. } | MountError::SubPathRefused { .. }
    );
    if sub_path { ImageServiceError::SubPath { message } } else { ImageServiceError::Node { message } }
}

/// A blocking task panicked or was dropped at shutdown.
pub(crate) fn of_task(error: &tokio::task::JoinError) -> ImageServiceError {
    ImageServiceError::Node { message: format!("image service task failed: {error}") }
}
