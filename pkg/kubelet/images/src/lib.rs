//! imagevol-images
