//! imagevol-imageservice
