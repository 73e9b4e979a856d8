//! Errors of registry, store and kernel in the words of the image service: one line that says the whole chain.

use imagevol_cri::ImageServiceError;
use imagevol_mount::MountError;
use imagevol_registry::RegistryError;
use imagevol_store::StoreError;

use crate::plan::PlanError;

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Transparent wrappers say the same twice.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

pub(crate) fn of_registry(error: &RegistryError) -> ImageServiceError {
    let message = chain(error);
    match error {
        RegistryError::NotFound(_) => ImageServiceError::NotFound { message },
        RegistryError::Denied(_) | RegistryError::Unauthorized(_) => ImageServiceError::Denied { message },
        other if other.is_final() => ImageServiceError::Invalid { message },
        _ => ImageServiceError::Unavailable { message },
    }
}

pub(crate) fn of_store(error: &StoreError) -> ImageServiceError {
    let message = chain(error);
    match error {
        StoreError::InUse(holders) => ImageServiceError::InUse { holders: holders.clone() },
        StoreError::NoImage(_) => ImageServiceError::NotFound { message },
        other if other.is_content() => ImageServiceError::Invalid { message },
        _ => ImageServiceError::Node { message },
    }
}

pub(crate) fn of_plan(error: &PlanError) -> ImageServiceError {
    ImageServiceError::Invalid { message: chain(error) }
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
