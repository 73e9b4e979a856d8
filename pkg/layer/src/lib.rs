//! imagevol-layer
