//! Which present images a pod may use without proof: `imagePullCredentialsVerificationPolicy`
//! (Kubernetes, `pkg/kubelet/images/pullmanager/image_pull_policies.go`).

use imagevol_api::config::{Allowlist, AllowlistError, ImagePullCredentialsVerificationPolicy as Configured};

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
    /// The configured policy with its allow-list, of which the first bad entry is the error.
    pub fn new(policy: Configured, allowlist: &[String]) -> Result<Self, AllowlistError> {
        Ok(match policy {
            Configured::NeverVerify => Self::NeverVerify,
            Configured::NeverVerifyPreloadedImages => Self::NeverVerifyPreloadedImages,
            Configured::NeverVerifyAllowlistedImages => {
                Self::NeverVerifyAllowlistedImages(Allowlist::parse(allowlist)?)
            }
            Configured::AlwaysVerify => Self::AlwaysVerify,
        })
    }

    /// Whether a pod has to prove its right to a present image that it names so. The list is one of names: who names an image by its id
    /// is not on it.
    pub(crate) fn requires_verification(&self, repository: Option<&str>, origin: Origin) -> bool {
        match self {
            Self::NeverVerify => false,
            Self::NeverVerifyPreloadedImages => origin == Origin::Pulled,
            Self::NeverVerifyAllowlistedImages(list) => !repository.is_some_and(|repository| list.matches(repository)),
            Self::AlwaysVerify => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("r.io/a", "r.io/a", true)]
    #[case("r.io/a/*", "r.io/a", false)]
    fn the_list_frees_what_is_on_it(#[case] pattern: &str, #[case] repository: &str, #[case] listed: bool) {
        let policy = VerificationPolicy::new(Configured::NeverVerifyAllowlistedImages, &[pattern.to_owned()]).unwrap();
        for origin in [Origin::Pulled, Origin::Preloaded] {
            assert_eq!(policy.requires_verification(Some(repository), origin), !listed);
        }
    }

    #[rstest]
    #[case(Configured::NeverVerify, false, false)]
    #[case(Configured::NeverVerifyPreloadedImages, true, false)]
    #[case(Configured::NeverVerifyAllowlistedImages, true, true)]
    #[case(Configured::AlwaysVerify, true, true)]
    fn asks_for_proof_as_the_policy_says(#[case] policy: Configured, #[case] pulled: bool, #[case] preloaded: bool) {
        let policy = VerificationPolicy::new(policy, &[]).unwrap();
        let asked =
            [Origin::Pulled, Origin::Preloaded].map(|origin| policy.requires_verification(Some("r.io/a"), origin));
        assert_eq!(asked, [pulled, preloaded]);
    }
}
