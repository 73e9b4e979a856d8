//! Image references in Docker's "normalized" grammar, which the kubelet uses (distribution/reference, `ParseNormalizedNamed`).

use std::fmt;

use super::digest::{Digest, DigestError};

/// The registry that an unqualified name means.
pub(super) const DEFAULT_DOMAIN: &str = "docker.io";
/// An old name of the same registry, which the normalized grammar replaces.
const LEGACY_DEFAULT_DOMAIN: &str = "index.docker.io";
/// The repository prefix of an unqualified, one-component name on the default registry.
pub(super) const OFFICIAL_PREFIX: &str = "library/";
/// Longest repository name, without its domain (distribution/reference, `RepositoryNameTotalLengthMax`).
const NAME_LENGTH_MAX: usize = 255;
/// Fewest hex digits that the grammar takes for a digest, whatever its algorithm (distribution/reference, `digestPat`).
const DIGEST_HEX_MIN: usize = 32;
/// Longest tag (distribution spec, "Pulling manifests").
const TAG_LENGTH_MAX: usize = 128;
/// What a reference without tag or digest means.
const DEFAULT_TAG: &str = "latest";

/// A parsed, normalized reference: `domain/path[:tag][@digest]`.
///
/// Each part is from a closed set of characters, so that it can stand in a URL path or a log line as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a string is no image reference; the texts are those of distribution/reference, as kubelet events show them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The string is outside the grammar.
    #[error("invalid reference format")]
    Format,
    /// The repository part has upper-case letters.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    NotLowercase(String),
    /// The string is 64 hex digits, which could be mistaken for an image id.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    HexName(String),
    /// The name is longer than 255 characters.
    #[error("repository name must not be more than {NAME_LENGTH_MAX} characters")]
    TooLong,
    /// The algorithm of the digest is not supported.
    #[error("unsupported digest algorithm")]
    UnsupportedDigest,
    /// The digest's value does not fit its algorithm.
    #[error("invalid checksum digest length")]
    DigestLength,
    /// The digest's value is of the right length, and not in lower case.
    #[error("invalid checksum digest format")]
    DigestFormat,
}

// === impl Reference ===

impl Reference {
    /// Parses and normalizes: `busybox` is `docker.io/library/busybox`.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
            return Err(ReferenceError::HexName(text.to_owned()));
        }
        let (domain, remainder) = split_domain(text);
        let remote = remainder.split_once(':').map_or(remainder.as_str(), |(name, _)| name);
        // The name is part of the message: nothing that steers a terminal may be in it.
        if has_upper_case(remote) && !remote.chars().any(char::is_control) {
            return Err(ReferenceError::NotLowercase(remote.to_owned()));
        }
        let (named, digest) = remainder.split_once('@').map_or((remainder.as_str(), None), |(n, d)| (n, Some(d)));
        let (path, tag) = split_tag(named);
        let is_sound = is_domain(&domain) && is_path(path) && tag.is_none_or(is_tag) && digest.is_none_or(is_digest);
        if !is_sound {
            return Err(ReferenceError::Format);
        }
        if path.len() > NAME_LENGTH_MAX {
            return Err(ReferenceError::TooLong);
        }
        let digest = digest.map(parse_digest).transpose()?;
        Ok(Self { path: path.to_owned(), tag: tag.map(str::to_owned), digest, domain })
    }

    /// The registry's name, with its port where one is given: `docker.io`, `localhost:5000`, `[::1]:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository on that registry: `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag as written, if any.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest as written, if any; it wins over a tag.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// `domain/path`: the key of credentials and pull records.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The same reference with `:latest` where neither a tag nor a digest is written.
    #[must_use]
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// The same repository at `digest`, without a tag.
    #[must_use]
    pub fn at_digest(&self, digest: &Digest) -> Self {
        Self { tag: None, digest: Some(digest.clone()), ..self.clone() }
    }

    /// Whether the default pull policy is `Always` (Kubernetes, `SetDefaults_Volume`): the tag is `latest`, or nothing pins it.
    pub fn moves(&self) -> bool {
        match (&self.tag, &self.digest) {
            (Some(tag), _) => tag == DEFAULT_TAG,
            (None, digest) => digest.is_none(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

/// The part before the first `/` is a registry only if it looks like one (distribution/reference, `splitDockerDomain`).
fn split_domain(text: &str) -> (String, String) {
    let (domain, remainder) = match text.split_once('/') {
        Some((first, rest)) if looks_like_domain(first) => (first, rest.to_owned()),
        _ => (DEFAULT_DOMAIN, text.to_owned()),
    };
    let domain = if domain == LEGACY_DEFAULT_DOMAIN { DEFAULT_DOMAIN } else { domain };
    let official = domain == DEFAULT_DOMAIN && !remainder.contains('/');
    let remainder = if official { format!("{OFFICIAL_PREFIX}{remainder}") } else { remainder };
    (domain.to_owned(), remainder)
}

fn looks_like_domain(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || has_upper_case(first)
}

/// A digest that [`is_digest`], as one that can be verified.
fn parse_digest(text: &str) -> Result<Digest, ReferenceError> {
    let has_length = |length| text.split_once(':').is_some_and(|(_, value)| value.len() == length);
    text.parse().map_err(|error| match error {
        DigestError::NoAlgorithm => ReferenceError::Format,
        DigestError::UnknownAlgorithm => ReferenceError::UnsupportedDigest,
        DigestError::Value(length) if has_length(length) => ReferenceError::DigestFormat,
        DigestError::Value(_) => ReferenceError::DigestLength,
    })
}

/// What the grammar takes for a digest, of any algorithm.
fn is_digest(text: &str) -> bool {
    let word = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_alphabetic()) && word.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    text.split_once(':').is_some_and(|(algorithm, value)| {
        let hex = value.len() >= DIGEST_HEX_MIN && value.bytes().all(|byte| byte.is_ascii_hexdigit());
        hex && algorithm.split(['-', '_', '+', '.']).all(word)
    })
}

/// Whether Go's `strings.ToLower` would change the text.
fn has_upper_case(text: &str) -> bool {
    text.chars().any(|character| character.to_lowercase().ne([character]))
}

fn split_tag(named: &str) -> (&str, Option<&str>) {
    named.split_once(':').map_or((named, None), |(path, tag)| (path, Some(tag)))
}

/// `host`, `host:port`, `[ipv6]` or `[ipv6]:port`.
fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, "")) => return is_ipv6(address),
        Some((address, after)) => match after.strip_prefix(':') {
            Some(port) => return is_ipv6(address) && is_port(port),
            None => return false,
        },
        None => domain.split_once(':').map_or((domain, None), |(host, port)| (host, Some(port))),
    };
    host.split('.').all(is_host_label) && port.is_none_or(is_port)
}

fn is_ipv6(address: &str) -> bool {
    address.parse::<std::net::Ipv6Addr>().is_ok()
}

fn is_port(port: &str) -> bool {
    !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
}

fn is_host_label(label: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
}

fn is_path(path: &str) -> bool {
    path.split('/').all(is_path_component)
}

/// Runs of `[a-z0-9]+`, separated by `.`, `_`, `__` or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit();
    let separator =
        |text: &str| matches!(text, "." | "_" | "__") || (!text.is_empty() && text.bytes().all(|b| b == b'-'));
    let mut rest = component;
    loop {
        let run = rest.len() - rest.trim_start_matches(alphanumeric).len();
        if run == 0 {
            return false;
        }
        let after = rest.split_at(run).1;
        if after.is_empty() {
            return true;
        }
        let next = after.find(alphanumeric).unwrap_or(after.len());
        let (between, tail) = after.split_at(next);
        if !separator(between) {
            return false;
        }
        rest = tail;
    }
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= TAG_LENGTH_MAX
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[rstest]
    #[case("busybox", "docker.io/library/busybox")]
    #[case("busybox:1.36", "docker.io/library/busybox:1.36")]
    #[case("index.docker.io/busybox", "docker.io/library/busybox")]
    #[case("crio/artifact:v2", "docker.io/crio/artifact:v2")]
    #[case("quay.io/crio/artifact:v2", "quay.io/crio/artifact:v2")]
    #[case("localhost/a", "localhost/a")]
    #[case("localhost:5000/a/b_c__d-e---f.g:T-1.x", "localhost:5000/a/b_c__d-e---f.g:T-1.x")]
    #[case("[::1]:5000/a", "[::1]:5000/a")]
    #[case("FOO/bar", "FOO/bar")]
    fn normalizes(#[case] written: &str, #[case] normalized: &str) {
        assert_eq!(Reference::parse(written).unwrap().to_string(), normalized);
    }

    #[test]
    fn keeps_tag_and_digest() {
        let reference = Reference::parse(&format!("r.io/a:1@sha256:{HEX}")).unwrap();
        assert_eq!(reference.tag(), Some("1"));
        assert_eq!(reference.digest().unwrap().hex(), HEX);
        assert_eq!(reference.repository(), "r.io/a");
    }

    #[rstest]
    #[case("")]
    #[case(" r:1")]
    #[case("http://r/x:1")]
    #[case("r.io/a:")]
    #[case("r.io/a@sha256")]
    #[case("r.io//a")]
    #[case("r.io/../a")]
    #[case("r.io/a?b=c")]
    #[case("r.io:port/a")]
    #[case("-r.io/a")]
    #[case("a..b/c")]
    #[case("a\nb")]
    fn refuses_what_is_outside_the_grammar(#[case] text: &str) {
        assert_eq!(Reference::parse(text), Err(ReferenceError::Format), "{text:?}");
    }

    #[test]
    fn names_the_reason_as_the_kubelet_does() {
        assert_eq!(
            Reference::parse("FAILED_IMAGE").unwrap_err().to_string(),
            "invalid reference format: repository name (library/FAILED_IMAGE) must be lowercase"
        );
        assert_eq!(
            Reference::parse(HEX).unwrap_err().to_string(),
            format!("invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings")
        );
    }

    // The answers of distribution/reference v0.6.0, `ParseNormalizedNamed`.
    #[rstest]
    #[case("a@sha256:zz", ReferenceError::Format)]
    #[case("a@sha256:0123", ReferenceError::Format)]
    #[case(&format!("a@sha256:{}", &HEX[..40]), ReferenceError::DigestLength)]
    #[case(&format!("a@sha256:{}", HEX.to_uppercase()), ReferenceError::DigestFormat)]
    #[case(&format!("a@md5:{}", &HEX[..32]), ReferenceError::UnsupportedDigest)]
    #[case(&format!("a@md-:{}", &HEX[..32]), ReferenceError::Format)]
    #[case(&format!("a@sha256:{HEX}@sha256:{HEX}"), ReferenceError::Format)]
    #[case(&format!("a@SHA256:{HEX}"), ReferenceError::NotLowercase("library/a@SHA256".into()))]
    #[case("É:1", ReferenceError::NotLowercase("library/É".into()))]
    #[case("A\x1b[31m:1", ReferenceError::Format)]
    #[case("é:1", ReferenceError::Format)]
    #[case(&format!("r.io/{}", "a".repeat(256)), ReferenceError::TooLong)]
    #[case(&format!("r.io/a:{}", "a".repeat(129)), ReferenceError::Format)]
    fn refuses_with_the_reason_of_the_library(#[case] text: &str, #[case] error: ReferenceError) {
        assert_eq!(Reference::parse(text), Err(error), "{text:?}");
    }

    #[test]
    fn counts_the_name_without_its_domain() {
        let name = format!("{}.io/{}", "r".repeat(60), "a".repeat(255));
        assert_eq!(Reference::parse(&name).unwrap().path().len(), 255);
    }

    proptest! {
        #[test]
        fn what_is_normalized_stays_as_it_is(text in "[a-zA-Z0-9./:@_-]{0,40}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(Reference::parse(&reference.to_string()), Ok(reference));
            }
        }

        #[test]
        fn any_text_has_an_answer_without_control_characters(text in any::<String>()) {
            let shown = Reference::parse(&text).map_or_else(|error| error.to_string(), |reference| reference.to_string());
            prop_assert!(!shown.chars().any(char::is_control), "{:?}", shown);
        }
    }

    #[rstest]
    #[case("a", true)]
    #[case("a:latest", true)]
    #[case("a:1", false)]
    fn knows_which_references_move(#[case] text: &str, #[case] moves: bool) {
        assert_eq!(Reference::parse(text).unwrap().moves(), moves);
    }

    #[test]
    fn a_tag_decides_over_a_digest() {
        assert!(Reference::parse(&format!("a:latest@sha256:{HEX}")).unwrap().moves());
        assert!(!Reference::parse(&format!("a@sha256:{HEX}")).unwrap().moves());
    }
}
