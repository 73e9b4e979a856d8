//! The path beneath a volume's root that a container asks for.

use std::{fmt, path::Path};

/// `PATH_MAX` of `<linux/limits.h>` without the closing NUL.
const MAX_LENGTH: usize = 4095;

/// A relative path that names nothing above its start, as `volumeMounts[].subPath` must be: no leading `/`, no `..`,
/// no NUL, no empty components. `.` names the root itself.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubPath(String);

/// Why a string is no [`SubPath`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubPathError {
    /// The string is empty: whoever means the root gives no sub path.
    #[error("must not be empty")]
    Empty,
    /// It starts with `/`.
    #[error("must be a relative path")]
    Absolute,
    /// One of its components is `..`, even if a later one leads back.
    #[error("must not contain '..'")]
    Parent,
    /// It holds a NUL byte, at which the kernel would cut it.
    #[error("must not contain a NUL byte")]
    Nul,
    /// It is longer than any path the kernel takes.
    #[error("must not be longer than {MAX_LENGTH} bytes")]
    TooLong,
}

// === impl SubPath ===

impl SubPath {
    /// Reads a path, dropping `.` components and repeated or trailing slashes.
    pub fn parse(path: &str) -> Result<Self, SubPathError> {
        match path {
            "" => return Err(SubPathError::Empty),
            _ if path.len() > MAX_LENGTH => return Err(SubPathError::TooLong),
            _ if path.starts_with('/') => return Err(SubPathError::Absolute),
            _ if path.contains('\0') => return Err(SubPathError::Nul),
            _ if path.split('/').any(|component| component == "..") => return Err(SubPathError::Parent),
            _ => {}
        }
        let components: Vec<_> = path.split('/').filter(|component| !matches!(*component, "" | ".")).collect();
        Ok(Self(if components.is_empty() { ".".to_owned() } else { components.join("/") }))
    }

    /// The normalised path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The normalised path.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl fmt::Debug for SubPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Quoted and escaped: the string comes from a pod's author and goes into logs and events.
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("models", "models")]
    #[case("models/a", "models/a")]
    #[case("./models//a/./", "models/a")]
    #[case("...", "...")]
    #[case("a..b/..c", "a..b/..c")]
    #[case(".", ".")]
    #[case("./", ".")]
    #[case(" ", " ")]
    fn normalises(#[case] given: &str, #[case] expected: &str) {
        assert_eq!(SubPath::parse(given).unwrap().as_str(), expected);
    }

    #[rstest]
    #[case("", SubPathError::Empty)]
    #[case("/", SubPathError::Absolute)]
    #[case("/etc/passwd", SubPathError::Absolute)]
    #[case("..", SubPathError::Parent)]
    #[case("a/../b", SubPathError::Parent)]
    #[case("a/..", SubPathError::Parent)]
    #[case("a\0b", SubPathError::Nul)]
    #[case(&"a/".repeat(2048), SubPathError::TooLong)]
    fn refuses(#[case] given: &str, #[case] expected: SubPathError) {
        assert_eq!(SubPath::parse(given), Err(expected));
    }

    #[test]
    fn debug_is_quoted_and_escaped() {
        assert_eq!(format!("{:?}", SubPath::parse("a\n\u{1b}b").unwrap()), r#""a\n\u{1b}b""#);
    }

    proptest! {
        #[test]
        fn never_leaves_its_start(given in "[./a-c\0]{0,12}") {
            if let Ok(path) = SubPath::parse(&given) {
                prop_assert!(!path.as_path().is_absolute());
                prop_assert!(path.as_str().split('/').all(|c| !c.is_empty() && c != ".."));
                prop_assert_eq!(SubPath::parse(path.as_str()), Ok(path));
            }
        }
    }
}
