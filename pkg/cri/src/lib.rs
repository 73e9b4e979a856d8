//! imagevol-cri
