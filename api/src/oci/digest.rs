//! Content digests (OCI image spec, descriptor.md, "Digests").

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A registered digest algorithm that imagevol verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// `sha256`: 64 lower-case hex digits.
    Sha256,
    /// `sha512`: 128 lower-case hex digits.
    Sha512,
}

/// `algorithm:hex`, checked: it can name a file or a URL segment as it stands.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    hex: Box<str>,
}

/// Why a string is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no `:` between algorithm and value.
    #[error("digest has no algorithm")]
    NoAlgorithm,
    /// The algorithm is none of the registered ones that imagevol verifies.
    #[error("digest algorithm is neither sha256 nor sha512")]
    UnknownAlgorithm,
    /// The value is not exactly the algorithm's number of lower-case hex digits.
    #[error("digest value is not {0} lower-case hex digits")]
    Value(usize),
}

// === impl Algorithm ===

impl Algorithm {
    /// The algorithm's registered name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Hex digits of a value.
    pub const fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

// === impl Digest ===

impl Digest {
    /// Checks the hex digits of a value.
    pub fn new(algorithm: Algorithm, hex: &str) -> Result<Self, DigestError> {
        let wanted = algorithm.hex_len();
        let hex_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if hex.len() != wanted || !hex.bytes().all(hex_digit) {
            return Err(DigestError::Value(wanted));
        }
        Ok(Self { algorithm, hex: hex.into() })
    }

    /// The digest whose raw value is `bytes`.
    pub fn from_bytes(algorithm: Algorithm, bytes: &[u8]) -> Result<Self, DigestError> {
        use fmt::Write as _;
        let mut hex = String::with_capacity(algorithm.hex_len());
        for byte in bytes {
            write!(hex, "{byte:02x}").map_err(|_| DigestError::Value(algorithm.hex_len()))?;
        }
        Self::new(algorithm, &hex)
    }

    /// Which hash it is.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The value: lower-case hex digits only.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// The first twelve digits, as tables show them.
    pub fn short(&self) -> &str {
        self.hex.get(..12).unwrap_or(&self.hex)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), self.hex)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, hex) = text.split_once(':').ok_or(DigestError::NoAlgorithm)?;
        let algorithm = match algorithm {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return Err(DigestError::UnknownAlgorithm),
        };
        Self::new(algorithm, hex)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_a_valid_digest() {
        let text = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(text.parse::<Digest>().unwrap().to_string(), text);
    }

    #[test]
    fn refuses_what_could_become_a_path() {
        for text in
            ["sha256:../../etc/passwd", "sha256:", "md5:00", "", "sha256", &format!("sha256:{}", "0A".repeat(32))]
        {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn renders_raw_bytes() {
        let digest = Digest::from_bytes(Algorithm::Sha256, &[0xab; 32]).unwrap();
        assert_eq!(digest.hex(), "ab".repeat(32));
        assert!(Digest::from_bytes(Algorithm::Sha256, &[0; 31]).is_err());
    }
}
