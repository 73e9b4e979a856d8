//! imagevol-test-support
