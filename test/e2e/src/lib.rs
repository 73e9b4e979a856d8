//! What the tests on a real cluster share.

#![forbid(unsafe_code)]
