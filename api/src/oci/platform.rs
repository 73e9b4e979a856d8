//! Platforms, as configuration and volumes name them.

use std::fmt;
use std::str::FromStr;

/// `os/architecture` or `os/architecture/variant`, each part of lower-case letters and digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform(Box<str>);

/// A string is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be os/architecture or os/architecture/variant, in lower case")]
pub struct PlatformError;

// === impl Platform ===

impl Platform {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Operating system, architecture and variant.
    pub fn parts(&self) -> (&str, &str, Option<&str>) {
        let mut parts = self.0.split('/');
        (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next())
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let is_part = |part: &str| !part.is_empty() && part.bytes().all(known);
        let is_platform = matches!(text.split('/').count(), 2 | 3) && text.split('/').all(is_part);
        if is_platform { Ok(Self(text.into())) } else { Err(PlatformError) }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("linux/amd64", ("linux", "amd64", None))]
    #[case("linux/arm/v7", ("linux", "arm", Some("v7")))]
    fn reads_platforms(#[case] text: &str, #[case] parts: (&str, &str, Option<&str>)) {
        let platform: Platform = text.parse().unwrap();
        assert_eq!((platform.parts(), &*platform.to_string()), (parts, text));
    }

    #[rstest]
    #[case("")]
    #[case("linux")]
    #[case("linux/")]
    #[case("/amd64")]
    #[case("linux/arm/v7/x")]
    #[case("Linux/amd64")]
    #[case("linux/amd 64")]
    #[case("linux/../x")]
    fn refuses_the_rest(#[case] text: &str) {
        assert_eq!(text.parse::<Platform>(), Err(PlatformError));
    }
}
