//! The daemon killed at random moments.
