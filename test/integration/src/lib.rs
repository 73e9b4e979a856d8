//! The daemon and the command line against a registry that misbehaves: all of it is in `tests/`.
