//! Sizes in a configuration file.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::{Serialize, Serializer};

use crate::core::quantity;

/// Suffixes for printing, largest first.
const SUFFIXES: [(&str, u64); 6] =
    [("Ei", 1 << 60), ("Pi", 1 << 50), ("Ti", 1 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];

/// A number of bytes, written as an integer or as a quantity such as `100Gi` or `1.5T`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(u64);

struct BytesVisitor;

// === impl Bytes ===

impl Bytes {
    /// So many bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    fn parse(text: &str) -> Option<Self> {
        u64::try_from(quantity::whole(text)?).ok().map(Self)
    }
}

impl fmt::Display for Bytes {
    /// As Kubernetes prints a quantity: with the largest binary suffix that leaves a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = SUFFIXES.into_iter().find(|(_, size)| self.0 > 0 && self.0.is_multiple_of(*size));
        let (suffix, size) = whole.unwrap_or(("", 1));
        write!(f, "{}{suffix}", self.0 / size)
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BytesVisitor)
    }
}

// === impl BytesVisitor ===

impl Visitor<'_> for BytesVisitor {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of bytes, or a quantity such as 100Gi")
    }

    fn visit_u64<E>(self, bytes: u64) -> Result<Bytes, E> {
        Ok(Bytes(bytes))
    }

    fn visit_i64<E: Error>(self, bytes: i64) -> Result<Bytes, E> {
        u64::try_from(bytes).map(Bytes).map_err(|_| E::custom("a size cannot be negative"))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Bytes, E> {
        Bytes::parse(text).ok_or_else(|| E::custom(format_args!("{text:?} is not a whole number of bytes")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("100Gi", Some(100 << 30))]
    #[case("1.5k", Some(1_500))]
    #[case("0", Some(0))]
    #[case("1e3", Some(1_000))]
    #[case("1m", None)]
    #[case("-1", None)]
    #[case("100Ei", None)]
    #[case("1 Gi", None)]
    fn reads_quantities(#[case] text: &str, #[case] bytes: Option<u64>) {
        assert_eq!(Bytes::parse(text).map(Bytes::get), bytes);
    }

    #[rstest]
    #[case(0, "0")]
    #[case(1_000, "1000")]
    #[case(4 << 20, "4Mi")]
    #[case(1 << 40, "1Ti")]
    fn prints_the_largest_suffix(#[case] bytes: u64, #[case] text: &str) {
        assert_eq!(Bytes(bytes).to_string(), text);
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(bytes in any::<u64>(), shift in 0_u32..60) {
            let bytes = Bytes(bytes >> shift << shift);
            prop_assert_eq!(Bytes::parse(&bytes.to_string()), Some(bytes));
        }
    }
}
