//! imagevol-controlplane
