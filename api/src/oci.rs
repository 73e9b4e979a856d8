//! OCI names as closed types: [`Digest`], [`Platform`] and [`Reference`].

mod digest;
mod platform;
mod reference;

pub use digest::{Algorithm, Digest, DigestError};
pub use platform::{Platform, PlatformError};
pub use reference::{Reference, ReferenceError};
