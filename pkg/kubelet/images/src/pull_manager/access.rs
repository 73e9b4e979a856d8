//! May a pod use an image that is present, or has it to prove its right by a pull? (KEP-2535; Kubernetes,
//! `pkg/kubelet/images/pullmanager/image_pull_manager.go`, `MustAttemptImagePull`.) Pure.

use imagevol_api::records::{ImagePullCredentials, ImagePullSecret, ImagePullServiceAccount};

use super::records::Stored;
use super::verification::{Origin, VerificationPolicy};

/// How a check of a present image ended, as `kubelet_imagemanager_image_mustpull_checks_total` counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum CheckResult {
    /// The policy asks for no proof.
    CredentialPolicyAllowed,
    /// A record proves the right.
    CredentialRecordFound,
    /// Nothing proves it.
    MustAuthenticate,
    /// It could not be found out.
    Error,
}

/// What the node knows about a present image.
#[derive(Debug)]
pub(crate) struct PresentImage<'a> {
    /// `domain/path` of the reference that the pod wrote; `None` if that was no name but the image's id.
    pub(crate) repository: Option<&'a str>,
    /// Whether a pull of it was begun whose end is not recorded.
    pub(crate) intent: Intent,
    /// What is recorded of it.
    pub(crate) record: &'a Stored,
}

/// Whether there is an intent to pull an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intent {
    /// There is one.
    Present,
    /// There is none.
    Absent,
}

/// What is decided without knowing the pod's credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The pod may use the image.
    Use(CheckResult),
    /// The pod has to pull it.
    Pull(CheckResult),
    /// It depends on the pod's secrets and service account.
    AskCredentials(ImagePullCredentials),
}

/// What is decided once the pod's credentials are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proof {
    /// The record has this very secret with this content, or this service account.
    Known,
    /// The record has the credential under another name, or the secret with older content: worth adding to the record.
    New(ImagePullSecret),
    /// Neither the pod's secrets nor its service account are in the record.
    Missing,
}

// === impl CheckResult ===

impl CheckResult {
    /// As the metric's label has it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::CredentialPolicyAllowed => "credentialPolicyAllowed",
            Self::CredentialRecordFound => "credentialRecordFound",
            Self::MustAuthenticate => "mustAuthenticate",
            Self::Error => "error",
        }
    }
}

/// In the kubelet's order: exempt by policy, record unreadable, no record, open to the node, credentials.
pub(crate) fn must_attempt_image_pull(policy: &VerificationPolicy, image: &PresentImage<'_>) -> Verdict {
    if !policy.requires_verification(image.repository, origin(image)) {
        return Verdict::Use(CheckResult::CredentialPolicyAllowed);
    }
    let record = match image.record {
        Stored::Unreadable => return Verdict::Pull(CheckResult::Error),
        Stored::Absent => return Verdict::Pull(CheckResult::MustAuthenticate),
        Stored::Present(record) => record,
    };
    match image.repository.and_then(|repository| record.credential_mapping.get(repository)) {
        Some(known) if known.node_pods_accessible => Verdict::Use(CheckResult::CredentialRecordFound),
        Some(known) if !(known.kubernetes_secrets.is_empty() && known.kubernetes_service_accounts.is_empty()) => {
            Verdict::AskCredentials(known.clone())
        }
        // Nobody pulled it under this name, or it is not known with what.
        Some(_) | None => Verdict::Pull(CheckResult::MustAuthenticate),
    }
}

/// Whether what the pod has `shown` proves its right: the same credential under whatever name, or the same secret with
/// whatever content (it is the same tenant's), or the same service account.
pub(crate) fn prove(known: &ImagePullCredentials, shown: &ImagePullCredentials) -> Proof {
    for secret in &shown.kubernetes_secrets {
        let equal = |known: &ImagePullSecret| has_same_hash(known, secret) || is_same_secret(known, secret);
        if !known.kubernetes_secrets.iter().any(equal) {
            continue;
        }
        let is_there = known.kubernetes_secrets.contains(secret);
        return if is_there { Proof::Known } else { Proof::New(secret.clone()) };
    }
    let is_known = |account: &&ImagePullServiceAccount| known.kubernetes_service_accounts.contains(account);
    let account = shown.kubernetes_service_accounts.iter().filter(|account| !account.uid.is_empty()).find(is_known);
    account.map_or(Proof::Missing, |_| Proof::Known)
}

fn origin(image: &PresentImage<'_>) -> Origin {
    match (image.record, image.intent) {
        (Stored::Absent, Intent::Absent) => Origin::Preloaded,
        (Stored::Absent, Intent::Present) | (Stored::Unreadable | Stored::Present(_), _) => Origin::Pulled,
    }
}

fn has_same_hash(a: &ImagePullSecret, b: &ImagePullSecret) -> bool {
    !a.credential_hash.is_empty() && a.credential_hash == b.credential_hash
}

/// A secret without UID is none that a cluster knows: names alone prove nothing.
pub(crate) fn is_same_secret(a: &ImagePullSecret, b: &ImagePullSecret) -> bool {
    !a.uid.is_empty() && (&a.namespace, &a.name, &a.uid) == (&b.namespace, &b.name, &b.uid)
}

#[cfg(test)]
mod tests;
