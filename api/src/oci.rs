//! OCI names as closed types: [`Digest`], [`Platform`], [`Reference`] and [`ImagePattern`].

mod digest;
mod pattern;
mod platform;
mod reference;

pub use digest::{Algorithm, Digest, DigestError};
pub use pattern::{Glob, ImagePattern, PatternError};
pub use platform::{Platform, PlatformError};
pub use reference::{Reference, ReferenceError};
