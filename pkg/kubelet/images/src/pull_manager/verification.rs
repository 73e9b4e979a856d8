//! Which present images a pod may use without proof: `imagePullCredentialsVerificationPolicy`
//! (Kubernetes, `pkg/kubelet/images/pullmanager/image_pull_policies.go`).

use std::collections::BTreeSet;

use imagevol_api::oci::{Reference, ReferenceError};

/// Which present images a pod may use without proof.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum VerificationPolicy {
    /// All.
    NeverVerify,
    /// Those that this daemon did not pull.
    #[default]
    NeverVerifyPreloadedImages,
    /// Those on the list.
    NeverVerifyAllowlistedImages(Allowlist),
    /// None.
    AlwaysVerify,
}

/// Repositories: `registry/path` exactly, or everything below `registry/path/`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowlist {
    exact: BTreeSet<String>,
    /// Each with its final slash.
    prefixes: BTreeSet<String>,
}

/// Why a policy cannot be configured so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerificationPolicyError {
    /// There is no policy of that name.
    #[error("unknown imagePullCredentialsVerificationPolicy {0:?}")]
    Unknown(String),
    /// A list is given that the policy does not use.
    #[error("preloadedImagesVerificationAllowlist needs the policy NeverVerifyAllowlistedImages")]
    UnusedAllowlist,
    /// An entry of the list is none.
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

/// Why a string is no entry of an allow-list; the texts are the kubelet's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It begins or ends with white space.
    #[error("leading/trailing spaces are not allowed: {0}")]
    Spaces(String),
    /// Nothing is left of it.
    #[error("the supplied pattern is too short: {0}")]
    TooShort(String),
    /// A star elsewhere than as the last path component.
    #[error("not a valid wildcard pattern, only patterns ending with '/*' are allowed: {0}")]
    Wildcard(String),
    /// `/*`.
    #[error("at least registry hostname is required")]
    NoRegistry,
    /// It is no name of an image.
    #[error("failed to parse as an image name: {0}")]
    Name(ReferenceError),
    /// It has a tag or a digest, or is not the full name.
    #[error("neither tag nor digest is accepted in an image reference: {0}")]
    NotAName(String),
}

/// How a present image came to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// This daemon pulled it, or began to.
    Pulled,
    /// It was there.
    Preloaded,
}

// === impl VerificationPolicy ===

impl VerificationPolicy {
    /// The policy of that name in the configuration, with its allow-list.
    pub fn new(name: &str, allowlist: &[String]) -> Result<Self, VerificationPolicyError> {
        let policy = match name {
            "NeverVerify" => Self::NeverVerify,
            "NeverVerifyPreloadedImages" => Self::NeverVerifyPreloadedImages,
            "NeverVerifyAllowlistedImages" => {
                return Ok(Self::NeverVerifyAllowlistedImages(Allowlist::new(allowlist)?));
            }
            "AlwaysVerify" => Self::AlwaysVerify,
            _ => return Err(VerificationPolicyError::Unknown(name.to_owned())),
        };
        if allowlist.is_empty() { Ok(policy) } else { Err(VerificationPolicyError::UnusedAllowlist) }
    }

    /// Whether a pod has to prove its right to a present image of `repository`.
    pub(crate) fn requires_verification(&self, repository: &str, origin: Origin) -> bool {
        match self {
            Self::NeverVerify => false,
            Self::NeverVerifyPreloadedImages => origin == Origin::Pulled,
            Self::NeverVerifyAllowlistedImages(list) => !list.has(repository),
            Self::AlwaysVerify => true,
        }
    }
}

// === impl Allowlist ===

impl Allowlist {
    /// Reads the entries.
    pub fn new(patterns: &[String]) -> Result<Self, PatternError> {
        let mut list = Self::default();
        for pattern in patterns {
            list.add(pattern)?;
        }
        Ok(list)
    }

    fn add(&mut self, pattern: &str) -> Result<(), PatternError> {
        let owned = || pattern.to_owned();
        if pattern != pattern.trim() {
            return Err(PatternError::Spaces(owned()));
        }
        let prefix = pattern.strip_suffix('*').filter(|prefix| prefix.ends_with('/'));
        let name = prefix.unwrap_or(pattern);
        if name.is_empty() {
            return Err(PatternError::TooShort(owned()));
        }
        if name.contains('*') {
            return Err(PatternError::Wildcard(owned()));
        }
        match prefix {
            Some("/") => return Err(PatternError::NoRegistry),
            Some(prefix) => self.prefixes.insert(prefix.to_owned()),
            None => self.exact.insert(full_name(pattern)?),
        };
        Ok(())
    }

    fn has(&self, repository: &str) -> bool {
        self.exact.contains(repository) || self.prefixes.iter().any(|prefix| repository.starts_with(prefix))
    }
}

fn full_name(pattern: &str) -> Result<String, PatternError> {
    let repository = Reference::parse(pattern).map_err(PatternError::Name)?.repository();
    if repository == pattern { Ok(repository) } else { Err(PatternError::NotAName(pattern.to_owned())) }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(" r.io/a", "leading/trailing spaces are not allowed:  r.io/a")]
    #[case("r.io/a\t", "leading/trailing spaces are not allowed: r.io/a\t")]
    #[case("", "the supplied pattern is too short: ")]
    #[case("*", "not a valid wildcard pattern, only patterns ending with '/*' are allowed: *")]
    #[case("r.io/a*", "not a valid wildcard pattern, only patterns ending with '/*' are allowed: r.io/a*")]
    #[case("*.r.io/a/*", "not a valid wildcard pattern, only patterns ending with '/*' are allowed: *.r.io/a/*")]
    #[case("/*", "at least registry hostname is required")]
    #[case("r.io/a:1", "neither tag nor digest is accepted in an image reference: r.io/a:1")]
    #[case("busybox", "neither tag nor digest is accepted in an image reference: busybox")]
    #[case(
        "r.io/A",
        "failed to parse as an image name: invalid reference format: repository name (A) must be lowercase"
    )]
    #[case("r.io//a", "failed to parse as an image name: invalid reference format")]
    fn refuses_with_the_kubelets_texts(#[case] pattern: &str, #[case] text: &str) {
        assert_eq!(Allowlist::new(&[pattern.to_owned()]).unwrap_err().to_string(), text);
    }

    #[rstest]
    #[case("r.io/a", "r.io/a", true)]
    #[case("r.io/a", "r.io/a/b", false)]
    #[case("r.io/a", "r.io/ab", false)]
    #[case("r.io/a/*", "r.io/a/b/c", true)]
    #[case("r.io/a/*", "r.io/a", false)]
    #[case("r.io/a/*", "r.io/ab", false)]
    #[case("r.io/*", "r.io/a", true)]
    #[case("r.io/*", "r.io.evil/a", false)]
    fn matches_whole_components(#[case] pattern: &str, #[case] repository: &str, #[case] listed: bool) {
        let policy = VerificationPolicy::new("NeverVerifyAllowlistedImages", &[pattern.to_owned()]).unwrap();
        for origin in [Origin::Pulled, Origin::Preloaded] {
            assert_eq!(policy.requires_verification(repository, origin), !listed);
        }
    }

    #[rstest]
    #[case("NeverVerify", false, false)]
    #[case("NeverVerifyPreloadedImages", true, false)]
    #[case("NeverVerifyAllowlistedImages", true, true)]
    #[case("AlwaysVerify", true, true)]
    fn asks_for_proof_as_the_policy_says(#[case] name: &str, #[case] pulled: bool, #[case] preloaded: bool) {
        let policy = VerificationPolicy::new(name, &[]).unwrap();
        let asked = [Origin::Pulled, Origin::Preloaded].map(|origin| policy.requires_verification("r.io/a", origin));
        assert_eq!(asked, [pulled, preloaded]);
    }

    #[test]
    fn refuses_other_configurations() {
        let list = ["r.io/a".to_owned()];
        assert_eq!(
            VerificationPolicy::new("Sometimes", &[]),
            Err(VerificationPolicyError::Unknown("Sometimes".to_owned()))
        );
        assert_eq!(VerificationPolicy::new("AlwaysVerify", &list), Err(VerificationPolicyError::UnusedAllowlist));
    }
}
