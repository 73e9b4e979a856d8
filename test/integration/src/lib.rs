//! The daemon and the command line against a registry that misbehaves.
