//! Hashing of content, behind one type so that the hash library can change.

use aws_lc_rs::digest::{Context, SHA256, SHA512};
use imagevol_api::oci::{Algorithm, Digest};

/// A running hash. AWS-LC is linked for TLS anyway and has AVX2 and SHA-NI code.
#[derive(Clone)]
pub struct Digester {
    algorithm: Algorithm,
    context: Context,
}

// === impl Digester ===

impl Digester {
    /// An empty hash of `algorithm`.
    pub fn new(algorithm: Algorithm) -> Self {
        let context = match algorithm {
            Algorithm::Sha256 => Context::new(&SHA256),
            Algorithm::Sha512 => Context::new(&SHA512),
        };
        Self { algorithm, context }
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    /// The digest of all bytes added.
    pub fn finish(self) -> Digest {
        let value = self.context.finish();
        // The lengths of AWS-LC's outputs are those of the algorithms, so that this cannot fail.
        Digest::from_bytes(self.algorithm, value.as_ref()).unwrap_or_else(|_| unreachable!("hash length"))
    }

    /// SHA-256 of bytes at hand.
    pub fn sha256(bytes: &[u8]) -> Digest {
        Self::of(Algorithm::Sha256, bytes)
    }

    /// Digest of bytes at hand.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
        let mut digester = Self::new(algorithm);
        digester.update(bytes);
        digester.finish()
    }
}

impl std::fmt::Debug for Digester {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Digester").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_as_the_standard_says() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digester::sha256(b"").to_string(), empty);
    }
}
