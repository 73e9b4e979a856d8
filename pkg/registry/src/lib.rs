//! imagevol-registry
