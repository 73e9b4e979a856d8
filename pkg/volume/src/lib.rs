//! imagevol-volume
