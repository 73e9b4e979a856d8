//! The daemon killed at random moments; all of it is in `tests/kill`.
