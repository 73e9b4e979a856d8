use imagevol_api::metav1::Time;
use imagevol_api::records::{ImagePullServiceAccount, ImagePulledRecord};
use rstest::rstest;

use super::*;
use imagevol_api::config::Allowlist;

const REPOSITORY: &str = "r.io/a";

fn secret(namespace: &str, uid: &str, hash: &str) -> ImagePullSecret {
    let (namespace, uid) = (namespace.to_owned(), uid.to_owned());
    ImagePullSecret { namespace, name: "s".to_owned(), uid, credential_hash: hash.to_owned() }
}

fn by_secrets(secrets: &[ImagePullSecret]) -> ImagePullCredentials {
    ImagePullCredentials { kubernetes_secrets: secrets.to_vec(), ..ImagePullCredentials::default() }
}

fn open_to_the_node() -> ImagePullCredentials {
    ImagePullCredentials { node_pods_accessible: true, ..ImagePullCredentials::default() }
}

fn record(repository: &str, credentials: ImagePullCredentials) -> Stored {
    let mut record = ImagePulledRecord::new("sha256:aa", Time(jiff::Timestamp::UNIX_EPOCH));
    record.credential_mapping.insert(repository.to_owned(), credentials);
    Stored::Present(record)
}

fn empty_record() -> Stored {
    Stored::Present(ImagePulledRecord::new("sha256:aa", Time(jiff::Timestamp::UNIX_EPOCH)))
}

fn listed(repository: &str) -> VerificationPolicy {
    VerificationPolicy::NeverVerifyAllowlistedImages(Allowlist::parse(&[repository]).unwrap())
}

/// What may be used before anybody's secrets are looked at: policy by record by intent.
#[rstest]
#[case::never_verify_even_unreadable(
    VerificationPolicy::NeverVerify,
    Stored::Unreadable,
    Intent::Present,
    Verdict::Use(CheckResult::CredentialPolicyAllowed)
)]
#[case::never_verify_others_secret(VerificationPolicy::NeverVerify, record(REPOSITORY, by_secrets(&[secret("n", "u", "h")])), Intent::Absent, Verdict::Use(CheckResult::CredentialPolicyAllowed))]
#[case::preloaded(
    VerificationPolicy::default(),
    Stored::Absent,
    Intent::Absent,
    Verdict::Use(CheckResult::CredentialPolicyAllowed)
)]
#[case::crashed_between_intent_and_result(
    VerificationPolicy::default(),
    Stored::Absent,
    Intent::Present,
    Verdict::Pull(CheckResult::MustAuthenticate)
)]
#[case::unreadable(
    VerificationPolicy::default(),
    Stored::Unreadable,
    Intent::Absent,
    Verdict::Pull(CheckResult::Error)
)]
#[case::recovered(
    VerificationPolicy::default(),
    empty_record(),
    Intent::Absent,
    Verdict::Pull(CheckResult::MustAuthenticate)
)]
#[case::anonymous_then_none(
    VerificationPolicy::default(),
    record(REPOSITORY, open_to_the_node()),
    Intent::Absent,
    Verdict::Use(CheckResult::CredentialRecordFound)
)]
#[case::anonymous_under_another_name(
    VerificationPolicy::default(),
    record("r.io/b", open_to_the_node()),
    Intent::Absent,
    Verdict::Pull(CheckResult::MustAuthenticate)
)]
#[case::by_nobody(
    VerificationPolicy::default(),
    record(REPOSITORY, ImagePullCredentials::default()),
    Intent::Absent,
    Verdict::Pull(CheckResult::MustAuthenticate)
)]
#[case::by_secret(VerificationPolicy::default(), record(REPOSITORY, by_secrets(&[secret("n", "u", "h")])), Intent::Absent, Verdict::AskCredentials(by_secrets(&[secret("n", "u", "h")])))]
#[case::listed(listed(REPOSITORY), record(REPOSITORY, by_secrets(&[secret("n", "u", "h")])), Intent::Absent, Verdict::Use(CheckResult::CredentialPolicyAllowed))]
#[case::not_listed(listed("r.io/other"), Stored::Absent, Intent::Absent, Verdict::Pull(CheckResult::MustAuthenticate))]
#[case::always_preloaded(
    VerificationPolicy::AlwaysVerify,
    Stored::Absent,
    Intent::Absent,
    Verdict::Pull(CheckResult::MustAuthenticate)
)]
#[case::always_anonymous(
    VerificationPolicy::AlwaysVerify,
    record(REPOSITORY, open_to_the_node()),
    Intent::Absent,
    Verdict::Use(CheckResult::CredentialRecordFound)
)]
fn decides_in_the_kubelets_order(
    #[case] policy: VerificationPolicy,
    #[case] record: Stored,
    #[case] intent: Intent,
    #[case] verdict: Verdict,
) {
    let image = PresentImage { repository: Some(REPOSITORY), intent, record: &record };
    assert_eq!(must_attempt_image_pull(&policy, &image), verdict);
}

fn account(name: &str, uid: &str) -> ImagePullServiceAccount {
    let [namespace, name, uid] = ["n", name, uid].map(str::to_owned);
    ImagePullServiceAccount { namespace, name, uid }
}

fn by_accounts(accounts: &[ImagePullServiceAccount]) -> ImagePullCredentials {
    ImagePullCredentials { kubernetes_service_accounts: accounts.to_vec(), ..ImagePullCredentials::default() }
}

#[test]
fn a_service_account_alone_asks_for_credentials() {
    let known = by_accounts(&[account("a", "u")]);
    let record = record(REPOSITORY, known.clone());
    let image = PresentImage { repository: Some(REPOSITORY), intent: Intent::Absent, record: &record };
    let verdict = must_attempt_image_pull(&VerificationPolicy::default(), &image);
    assert_eq!(verdict, Verdict::AskCredentials(known));
}

#[rstest]
#[case::same(account("a", "u"), Proof::Known)]
#[case::other(account("b", "v"), Proof::Missing)]
#[case::made_anew(account("a", "v"), Proof::Missing)]
#[case::uid_not_known(account("a", ""), Proof::Missing)]
fn accounts_prove_by_identity(#[case] shown: ImagePullServiceAccount, #[case] proof: Proof) {
    let known = by_accounts(&[account("a", "u"), account("a", "")]);
    assert_eq!(prove(&known, &by_accounts(&[shown])), proof);
}

#[rstest]
#[case::same(&[secret("n", "u", "h")], Proof::Known)]
#[case::rotated(&[secret("n", "u", "new")], Proof::New(secret("n", "u", "new")))]
#[case::same_credential_in_another_namespace(&[secret("m", "v", "h")], Proof::New(secret("m", "v", "h")))]
#[case::same_name_in_another_namespace(&[secret("m", "v", "other")], Proof::Missing)]
#[case::recreated_with_other_content(&[secret("n", "v", "other")], Proof::Missing)]
#[case::second_of_two(&[secret("m", "v", "other"), secret("n", "u", "h")], Proof::Known)]
#[case::none(&[], Proof::Missing)]
fn secrets_prove_by_content_or_by_identity(#[case] secrets: &[ImagePullSecret], #[case] proof: Proof) {
    assert_eq!(prove(&by_secrets(&[secret("n", "u", "h")]), &by_secrets(secrets)), proof);
}

#[test]
fn empty_hashes_and_uids_prove_nothing() {
    let known = by_secrets(&[secret("n", "", "")]);
    assert_eq!(prove(&known, &by_secrets(&[secret("m", "v", "")])), Proof::Missing);
    assert_eq!(prove(&known, &by_secrets(&[secret("n", "", "h")])), Proof::Missing);
    assert_eq!(prove(&known, &by_secrets(&[secret("n", "", "")])), Proof::Missing);
}
