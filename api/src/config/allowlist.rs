//! Images that any pod may use (Kubernetes, `pkg/kubelet/images/pullmanager/image_pull_policies.go`).

use crate::oci::{Reference, ReferenceError};

/// Image names and prefixes of `preloadedImagesVerificationAllowlist`, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowlist {
    names: Vec<String>,
    /// With their final `/`.
    prefixes: Vec<String>,
}

/// Why an entry is no pattern; the texts are the kubelet's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllowlistError {
    /// There is white space around the entry.
    #[error("leading/trailing spaces are not allowed: {0}")]
    Spaces(String),
    /// The entry is empty.
    #[error("the supplied pattern is too short: {0}")]
    TooShort(String),
    /// There is a `*` elsewhere than in a final `/*`.
    #[error("not a valid wildcard pattern, only patterns ending with '/*' are allowed: {0}")]
    Wildcard(String),
    /// The entry is `/*`.
    #[error("at least registry hostname is required")]
    NoHost,
    /// The entry is no image name.
    #[error("failed to parse as an image name: {0}")]
    Name(ReferenceError),
    /// The entry has a tag or a digest, or is not the full name (`docker.io/library/busybox`).
    #[error("neither tag nor digest is accepted in an image reference: {0}")]
    NotAName(String),
}

enum Pattern<'a> {
    Name(&'a str),
    Prefix(&'a str),
}

// === impl Allowlist ===

impl Allowlist {
    /// Checks every entry; the first bad one is the error.
    pub fn parse<S: AsRef<str>>(entries: &[S]) -> Result<Self, AllowlistError> {
        let mut list = Self::default();
        for entry in entries {
            match pattern(entry.as_ref())? {
                Pattern::Name(name) => list.names.push(name.to_owned()),
                Pattern::Prefix(prefix) => list.prefixes.push(prefix.to_owned()),
            }
        }
        Ok(list)
    }

    /// Whether a repository (`registry/path`) is on the list.
    pub fn matches(&self, repository: &str) -> bool {
        self.names.iter().any(|name| name == repository)
            || self.prefixes.iter().any(|prefix| repository.starts_with(prefix))
    }
}

pub(super) fn check(entry: &str) -> Result<(), AllowlistError> {
    pattern(entry).map(drop)
}

fn pattern(entry: &str) -> Result<Pattern<'_>, AllowlistError> {
    if entry.trim() != entry {
        return Err(AllowlistError::Spaces(entry.to_owned()));
    }
    let prefix = entry.strip_suffix('*').filter(|prefix| prefix.ends_with('/'));
    let name = prefix.unwrap_or(entry);
    if name.is_empty() {
        return Err(AllowlistError::TooShort(entry.to_owned()));
    }
    if name.contains('*') {
        return Err(AllowlistError::Wildcard(entry.to_owned()));
    }
    match prefix {
        Some("/") => Err(AllowlistError::NoHost),
        Some(prefix) => Ok(Pattern::Prefix(prefix)),
        None if Reference::parse(name).map_err(AllowlistError::Name)?.to_string() == name && is_bare(name) => {
            Ok(Pattern::Name(name))
        }
        None => Err(AllowlistError::NotAName(entry.to_owned())),
    }
}

fn is_bare(name: &str) -> bool {
    Reference::parse(name).is_ok_and(|reference| reference.tag().is_none() && reference.digest().is_none())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("r.io/a", None)]
    #[case("r.io:5000/a/*", None)]
    #[case("r.io/*", None)]
    #[case("r.io/a ", Some("leading/trailing spaces are not allowed: r.io/a "))]
    #[case("", Some("the supplied pattern is too short: "))]
    #[case("*", Some("not a valid wildcard pattern, only patterns ending with '/*' are allowed: *"))]
    #[case("r.*/a", Some("not a valid wildcard pattern, only patterns ending with '/*' are allowed: r.*/a"))]
    #[case("/*", Some("at least registry hostname is required"))]
    #[case("r.io/a:1", Some("neither tag nor digest is accepted in an image reference: r.io/a:1"))]
    #[case("busybox", Some("neither tag nor digest is accepted in an image reference: busybox"))]
    #[case("r.io/a\t", Some("leading/trailing spaces are not allowed: r.io/a\t"))]
    #[case("r.io/a*", Some("not a valid wildcard pattern, only patterns ending with '/*' are allowed: r.io/a*"))]
    #[case("r.io//a", Some("failed to parse as an image name: invalid reference format"))]
    fn checks_entries_as_the_kubelet(#[case] entry: &str, #[case] error: Option<&str>) {
        assert_eq!(check(entry).err().map(|error| error.to_string()).as_deref(), error);
    }

    #[rstest]
    #[case("r.io/a", true)]
    #[case("r.io/a/b", false)]
    #[case("r.io/ab", false)]
    #[case("docker.io/library/busybox", true)]
    #[case("q.io/team/x/y", true)]
    #[case("q.io/team", false)]
    #[case("q.io/teams/x", false)]
    #[case("q.io.evil/team/x", false)]
    fn matches_names_and_whole_components(#[case] repository: &str, #[case] listed: bool) {
        let list = Allowlist::parse(&["r.io/a", "docker.io/library/busybox", "q.io/team/*"]).unwrap();
        assert_eq!(list.matches(repository), listed);
    }
}
