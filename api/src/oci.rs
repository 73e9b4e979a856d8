//! OCI names as closed types: [`Digest`] and [`Reference`].

mod digest;
mod reference;

pub use digest::{Algorithm, Digest, DigestError};
pub use reference::{Reference, ReferenceError};
