//! imagevol-store
