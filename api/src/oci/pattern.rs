//! Patterns over image references: what a pin names.

use std::fmt;
use std::str::FromStr;

use super::digest::{Digest, DigestError};
use super::reference::{DEFAULT_DOMAIN, OFFICIAL_PREFIX, Reference, ReferenceError};

/// Longest glob. A reference is never longer: a domain of at most 253 characters (RFC 1035), a name of 255, a tag of 128 and a digest.
const GLOB_LENGTH_MAX: usize = 1024;

/// One image or many: a reference, the digest of a manifest, or a glob over references.
///
/// References are compared in their normalized form: `busybox` is `docker.io/library/busybox:latest`. In a glob, `*` stands for any
/// characters, `/` among them, and `?` for one. A glob covers a reference as a whole, with its tag or digest; one whose first part is
/// no registry and has no wildcard at its beginning is of Docker Hub, as a reference would be: `busybox:*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ImagePattern {
    /// One image by its manifest.
    Digest(Digest),
    /// What this reference leads to.
    Reference(Reference),
    /// What each reference leads to that this covers.
    Glob(Glob),
}

/// `*` and `?` over normalized references.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Glob(Box<str>);

/// Why a string is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Nothing is written.
    #[error("pattern is empty: write a reference, a digest, or a glob as quay.io/models/*")]
    Empty,
    /// Without a wildcard it must be a reference, and is none.
    #[error("pattern {text:?}: {source}")]
    Reference {
        /// What is written.
        text: String,
        /// Why it is none.
        source: ReferenceError,
    },
    /// It begins as a digest does, and is none.
    #[error("pattern {text:?}: {source}")]
    Digest {
        /// What is written.
        text: String,
        /// Why it is none.
        source: DigestError,
    },
    /// No reference can have this character.
    #[error("pattern {text:?}: no image reference has {character:?} in it; a glob may have * and ?")]
    Character {
        /// What is written.
        text: String,
        /// The first that is wrong.
        character: char,
    },
    /// No reference is that long.
    #[error("pattern is longer than {GLOB_LENGTH_MAX} characters")]
    TooLong,
}

// === impl ImagePattern ===

impl ImagePattern {
    /// Whether it covers an image: by its manifest, or by one of the normalized references that lead to it.
    pub fn matches<'n>(&self, manifest: &Digest, names: impl IntoIterator<Item = &'n str>) -> bool {
        let mut names = names.into_iter();
        match self {
            Self::Digest(digest) => digest == manifest,
            Self::Reference(reference) => {
                let wanted = reference.to_string();
                names.any(|name| name == wanted)
            }
            Self::Glob(glob) => names.any(|name| glob.covers(name)),
        }
    }
}

impl FromStr for ImagePattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > GLOB_LENGTH_MAX {
            return Err(PatternError::TooLong);
        }
        if text.contains(['*', '?']) {
            return Glob::parse(text).map(Self::Glob);
        }
        if ["sha256:", "sha512:"].iter().any(|prefix| text.starts_with(prefix)) {
            let wrong = |source| PatternError::Digest { text: text.to_owned(), source };
            return text.parse().map(Self::Digest).map_err(wrong);
        }
        let wrong = |source| PatternError::Reference { text: text.to_owned(), source };
        let reference = Reference::parse(text).map_err(wrong)?;
        // The digest decides, and the tag beside it is not asked.
        let normalized = reference.digest().map(|digest| reference.at_digest(digest));
        Ok(Self::Reference(normalized.unwrap_or_else(|| reference.with_default_tag())))
    }
}

/// Normalized. What it gives is parsed to the same pattern.
impl fmt::Display for ImagePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digest(digest) => digest.fmt(f),
            Self::Reference(reference) => reference.fmt(f),
            Self::Glob(glob) => f.write_str(&glob.0),
        }
    }
}

// === impl Glob ===

impl Glob {
    fn parse(text: &str) -> Result<Self, PatternError> {
        let known = |character: char| {
            character.is_ascii_alphanumeric()
                || matches!(character, '.' | '-' | '_' | '/' | ':' | '@' | '[' | ']' | '*' | '?')
        };
        if let Some(character) = text.chars().find(|character| !known(*character)) {
            return Err(PatternError::Character { text: text.to_owned(), character });
        }
        let prefix = match text.split_once('/') {
            _ if text.starts_with(['*', '?']) => String::new(),
            None => format!("{DEFAULT_DOMAIN}/{OFFICIAL_PREFIX}"),
            Some((first, _)) if is_registry(first) => String::new(),
            Some(_) => format!("{DEFAULT_DOMAIN}/"),
        };
        let glob = format!("{prefix}{text}");
        if glob.len() > GLOB_LENGTH_MAX { Err(PatternError::TooLong) } else { Ok(Self(glob.into())) }
    }

    /// Runs over the name once, and back to the last `*` where it cannot go on: no more than length times length steps.
    fn covers(&self, name: &str) -> bool {
        let (glob, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut at, mut in_name, mut star) = (0, 0, None);
        while let Some(byte) = name.get(in_name) {
            match glob.get(at) {
                Some(b'*') => {
                    star = Some((at + 1, in_name));
                    at += 1;
                }
                Some(wanted) if *wanted == b'?' || wanted == byte => {
                    at += 1;
                    in_name += 1;
                }
                Some(_) | None => {
                    let Some((after, taken)) = star else { return false };
                    star = Some((after, taken + 1));
                    (at, in_name) = (after, taken + 1);
                }
            }
        }
        glob.iter().skip(at).all(|byte| *byte == b'*')
    }
}

/// What stands before the first `/` of a reference is a registry if it looks like a host (distribution/reference,
/// `splitDockerDomain`); with a wildcard in it, it can only be one.
fn is_registry(first: &str) -> bool {
    first.contains(['.', ':', '*', '?', '['])
        || first == "localhost"
        || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn digest() -> Digest {
        Digest::new(super::super::Algorithm::Sha256, HEX).unwrap()
    }

    #[rstest]
    #[case::reference("busybox", "docker.io/library/busybox:latest")]
    #[case::tag("quay.io/a:1", "quay.io/a:1")]
    #[case::digest_over_tag(&format!("quay.io/a:1@sha256:{HEX}"), &format!("quay.io/a@sha256:{HEX}"))]
    #[case::digest(&format!("sha256:{HEX}"), &format!("sha256:{HEX}"))]
    #[case::everything("*", "*")]
    #[case::of_a_registry("quay.io/models/*", "quay.io/models/*")]
    #[case::of_many_registries("registry-?/a:1", "registry-?/a:1")]
    #[case::of_a_port("localhost:5000/*", "localhost:5000/*")]
    #[case::tags_of_docker_hub("busybox:*", "docker.io/library/busybox:*")]
    #[case::team_of_docker_hub("team/app:1.?", "docker.io/team/app:1.?")]
    #[case::anywhere("*/models:1", "*/models:1")]
    fn is_normalized(#[case] written: &str, #[case] normalized: &str) {
        let pattern: ImagePattern = written.parse().unwrap();
        assert_eq!(pattern.to_string(), normalized);
        assert_eq!(normalized.parse(), Ok(pattern));
    }

    #[rstest]
    #[case("", "pattern is empty: write a reference, a digest, or a glob as quay.io/models/*")]
    #[case("a b*", "pattern \"a b*\": no image reference has ' ' in it; a glob may have * and ?")]
    #[case("\u{1b}*", "pattern \"\\u{1b}*\": no image reference has '\\u{1b}' in it; a glob may have * and ?")]
    #[case("sha256:12", "pattern \"sha256:12\": digest value is not 64 lower-case hex digits")]
    #[case("a//b", "pattern \"a//b\": invalid reference format")]
    #[case(&"*".repeat(1025), "pattern is longer than 1024 characters")]
    fn says_what_is_wrong(#[case] written: &str, #[case] message: &str) {
        assert_eq!(written.parse::<ImagePattern>().unwrap_err().to_string(), message);
    }

    #[rstest]
    #[case::other_registry("quay.io/*", "r.io/a:1", false)]
    #[case::slashes("quay.io/*", "quay.io/a/b/c:1", true)]
    #[case::middle("quay.io/*/c:*", "quay.io/a/b/c:1", true)]
    #[case::whole("quay.io/a", "quay.io/a:1", false)]
    #[case::reference("quay.io/a:1", "quay.io/a:1", true)]
    #[case::one_character("quay.io/a:?", "quay.io/a:12", false)]
    #[case::hub("busybox:*", "docker.io/library/busybox:1", true)]
    #[case::digests("quay.io/a@*", "quay.io/a@sha256:00", true)]
    #[case::not_only_the_end("*.io/a:1", "quay.io/a:12", false)]
    fn covers_names(#[case] pattern: &str, #[case] name: &str, #[case] covered: bool) {
        let pattern: ImagePattern = pattern.parse().unwrap();
        assert_eq!(pattern.matches(&digest(), ["other.io/x:1", name]), covered);
    }

    #[test]
    fn a_digest_is_the_manifests_own() {
        let pattern: ImagePattern = format!("sha256:{HEX}").parse().unwrap();
        assert!(pattern.matches(&digest(), []));
        let other = Digest::new(super::super::Algorithm::Sha256, &HEX.replace('0', "1")).unwrap();
        assert!(!pattern.matches(&other, [format!("quay.io/a@sha256:{HEX}").as_str()]));
    }

    /// The definition, without regard to speed.
    fn by_definition(glob: &[u8], name: &[u8]) -> bool {
        match (glob.split_first(), name.split_first()) {
            (None, _) => name.is_empty(),
            (Some((b'*', rest)), _) => (0..=name.len()).any(|skip| by_definition(rest, &name[skip..])),
            (Some((b'?', rest)), Some((_, after))) => by_definition(rest, after),
            (Some((byte, rest)), Some((first, after))) => byte == first && by_definition(rest, after),
            (Some(_), None) => false,
        }
    }

    proptest! {
        #[test]
        fn globs_agree_with_their_definition(glob in "[*?][ab*?]{0,6}", name in "[ab]{0,8}") {
            let parsed = Glob::parse(&glob).unwrap();
            prop_assert_eq!(parsed.covers(&name), by_definition(glob.as_bytes(), name.as_bytes()));
        }

        #[test]
        fn any_text_has_an_answer_that_is_stable(text in any::<String>()) {
            match text.parse::<ImagePattern>() {
                Ok(pattern) => prop_assert_eq!(pattern.to_string().parse(), Ok(pattern)),
                Err(error) => prop_assert!(!error.to_string().chars().any(char::is_control)),
            }
        }
    }
}
