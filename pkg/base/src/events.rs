//! The seam through which any part says what happened to an object.

use imagevol_api::corev1::ObjectReference;

/// `type` of a core/v1 Event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// Something went as it should.
    Normal,
    /// Something needs attention.
    Warning,
}

/// Takes events. Implementations queue: a call never blocks and never fails.
pub trait EventRecorder: Send + Sync {
    /// Records that `reason` happened to `about`; `message` is shown to the user and holds no secret.
    fn record(&self, about: &ObjectReference, kind: EventKind, reason: &'static str, message: String);
}

// === impl EventKind ===

impl EventKind {
    /// As the API writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}
