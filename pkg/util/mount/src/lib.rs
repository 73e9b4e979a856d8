//! imagevol-mount
