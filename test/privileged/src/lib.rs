//! Mounted images against what other tools unpack.
