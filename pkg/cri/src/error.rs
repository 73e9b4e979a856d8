//! What an image service may answer instead of an image.

/// A result of an image service.
pub type Result<T, E = ImageServiceError> = std::result::Result<T, E>;

/// An error of an image service, by what the caller can do about it.
///
/// The texts of variants with a `message` are the service's own words for the user: they hold no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageServiceError {
    /// The registry does not have it. Trying again does not help.
    #[error("{message}")]
    NotFound {
        /// For the user.
        message: String,
    },
    /// The registry refuses these credentials, or wants some. Trying again with the same does not help.
    #[error("{message}")]
    Denied {
        /// For the user.
        message: String,
    },
    /// The content is wrong: a digest that does not match, a manifest that breaks the rules. Trying again does not help.
    #[error("{message}")]
    Invalid {
        /// For the user.
        message: String,
    },
    /// The registry cannot be reached or is overloaded. CRI error name `RegistryUnavailable`.
    #[error("{message}")]
    Unavailable {
        /// For the user.
        message: String,
    },
    /// A signature policy refuses the image. CRI error name `SignatureValidationFailed`.
    #[error("SignatureValidationFailed: {message}")]
    SignatureValidation {
        /// For the user.
        message: String,
    },
    /// The image is in use, so that it cannot be removed.
    #[error("image is in use by {}", .holders.join(", "))]
    InUse {
        /// Keys of the holders.
        holders: Vec<String>,
    },
    /// The sub path does not exist in the image, or is neither a directory nor a file.
    #[error("{message}")]
    SubPath {
        /// For the user.
        message: String,
    },
    /// The pull was cancelled: nobody wants it any more.
    #[error("pull of image was cancelled")]
    Cancelled,
    /// There is no room for the image: on the disk, or within the quota. Space may come back.
    #[error("{message}")]
    NoRoom {
        /// For the user: what it needs, what there is, and what removing unused images could free.
        message: String,
    },
    /// The node's disk, kernel or database failed.
    #[error("{message}")]
    Node {
        /// For the user.
        message: String,
    },
}

// === impl ImageServiceError ===

impl ImageServiceError {
    /// Whether the same request will be answered the same until somebody changes the pod, the secret or the registry.
    pub fn is_final(&self) -> bool {
        match self {
            Self::NotFound { .. }
            | Self::Denied { .. }
            | Self::Invalid { .. }
            | Self::SignatureValidation { .. }
            | Self::SubPath { .. } => true,
            Self::Unavailable { .. }
            | Self::InUse { .. }
            | Self::Cancelled
            | Self::NoRoom { .. }
            | Self::Node { .. } => false,
        }
    }
}
