use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn attributes(cache_type: TokenCacheType, require: RequireServiceAccount) -> ServiceAccountTokenAttributes {
    let required = (require == RequireServiceAccount::Yes).then(|| "a.io/role".to_owned());
    ServiceAccountTokenAttributes {
        audience: "registry".to_owned(),
        cache_type,
        require_service_account: require,
        required_annotations: required.into_iter().collect(),
        optional_annotations: ["a.io/region".to_owned()].into(),
    }
}

/// An account with annotation `a.io/role: reader`, another that no plugin wants, and `token` for audience `registry`.
fn claim(name: &str, uid: &str, token: &str) -> ServiceAccountClaim {
    let pairs = [("a.io/role", "reader"), ("a.io/secret", "hunter2")];
    ServiceAccountClaim {
        namespace: "n".to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        annotations: pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        tokens: [("registry".to_owned(), token.into())].into(),
    }
}

/// What a plugin is told: nothing, or token and annotations.
fn told(subject: &Subject) -> Option<(&str, Vec<(&str, &str)>)> {
    match subject {
        Subject::Anybody => None,
        Subject::Account(account) => {
            let annotations = account.annotations.iter().map(|(key, value)| (&**key, &**value)).collect();
            Some((account.token.expose_secret(), annotations))
        }
    }
}

#[test]
fn an_account_is_told_with_its_token_and_the_wanted_annotations() {
    let attributes = attributes(TokenCacheType::Token, RequireServiceAccount::Yes);
    let mut claim = claim("a", "u", "t");
    let subject = Subject::of(Some(&attributes), Behalf::Account(&claim)).unwrap();
    assert_eq!(told(&subject), Some(("t", vec![("a.io/role", "reader")])));
    claim.annotations.insert("a.io/region".to_owned(), "eu".to_owned());
    let subject = Subject::of(Some(&attributes), Behalf::Account(&claim)).unwrap();
    assert_eq!(told(&subject), Some(("t", vec![("a.io/region", "eu"), ("a.io/role", "reader")])));
}

/// A plugin that does not want to know is told nothing; who cannot be proved is not taken for nobody.
#[rstest]
#[case::plain(None, Behalf::UnknownAccount, Ok(()))]
#[case::node(Some(RequireServiceAccount::No), Behalf::Node, Ok(()))]
#[case::node_without_account(Some(RequireServiceAccount::Yes), Behalf::Node, Err(Missing::Account))]
#[case::unknown(Some(RequireServiceAccount::No), Behalf::UnknownAccount, Err(Missing::Token("registry".to_owned())))]
#[case::unknown_required(Some(RequireServiceAccount::Yes), Behalf::UnknownAccount, Err(Missing::Token("registry".to_owned())))]
fn those_without_a_claim(
    #[case] require: Option<RequireServiceAccount>,
    #[case] behalf: Behalf<'_>,
    #[case] anybody: Result<(), Missing>,
) {
    let attributes = require.map(|require| attributes(TokenCacheType::Token, require));
    let subject = Subject::of(attributes.as_ref(), behalf);
    assert_eq!(subject.map(|subject| assert_eq!(told(&subject), None)), anybody);
}

#[test]
fn a_plain_plugin_is_not_told_of_the_account() {
    let subject = Subject::of(None, Behalf::Account(&claim("a", "u", "t"))).unwrap();
    assert_eq!((told(&subject), subject.shares_answers()), (None, Identity::Anybody));
}

#[rstest]
#[case::annotation("a.io/role", "registry", Missing::Annotation("a.io/role".to_owned()))]
#[case::token("other", "registry", Missing::Token("registry".to_owned()))]
fn what_is_missing_is_said(#[case] annotation: &str, #[case] audience: &str, #[case] missing: Missing) {
    let attributes = attributes(TokenCacheType::Token, RequireServiceAccount::Yes);
    let mut claim = claim("a", "u", "t");
    if claim.annotations.remove(annotation).is_none() {
        claim.tokens.remove(audience);
    }
    assert_eq!(Subject::of(Some(&attributes), Behalf::Account(&claim)).unwrap_err(), missing);
}

/// Which of two askers has the other's answer, and waits for the other's question.
#[rstest]
#[case::itself(TokenCacheType::ServiceAccount, claim("a", "u", "t"), true, true)]
#[case::other_pod(TokenCacheType::ServiceAccount, claim("a", "u", "t2"), true, false)]
#[case::other_account(TokenCacheType::ServiceAccount, claim("b", "v", "t"), false, false)]
#[case::made_anew(TokenCacheType::ServiceAccount, claim("a", "v", "t"), false, false)]
#[case::token_of_other_pod(TokenCacheType::Token, claim("a", "u", "t2"), false, false)]
#[case::same_token(TokenCacheType::Token, claim("a", "u", "t"), true, true)]
fn answers_are_shared_as_configured(
    #[case] cache_type: TokenCacheType,
    #[case] other: ServiceAccountClaim,
    #[case] answers: bool,
    #[case] questions: bool,
) {
    let attributes = attributes(cache_type, RequireServiceAccount::No);
    let of = |claim: &ServiceAccountClaim| Subject::of(Some(&attributes), Behalf::Account(claim)).unwrap();
    let (one, other) = (of(&claim("a", "u", "t")), of(&other));
    assert_eq!(one.shares_answers() == other.shares_answers(), answers);
    assert_eq!(one.shares_questions() == other.shares_questions(), questions);
}

#[test]
fn accounts_whose_uid_is_not_known_share_with_their_token_alone() {
    let attributes = attributes(TokenCacheType::ServiceAccount, RequireServiceAccount::No);
    let of = |token| Subject::of(Some(&attributes), Behalf::Account(&claim("a", "", token))).unwrap().shares_answers();
    assert_eq!(of("t"), of("t"));
    assert_ne!(of("t"), of("t2"));
}

#[rstest]
#[case(TokenCacheType::ServiceAccount, "t", true)]
#[case(TokenCacheType::ServiceAccount, "exchanged", false)]
#[case(TokenCacheType::Token, "t", false)]
fn a_token_is_no_password_for_others(#[case] cache_type: TokenCacheType, #[case] password: &str, #[case] echoed: bool) {
    let attributes = attributes(cache_type, RequireServiceAccount::No);
    let subject = Subject::of(Some(&attributes), Behalf::Account(&claim("a", "u", "t"))).unwrap();
    assert_eq!(subject.is_echoed_by(&password.into()), echoed);
    assert!(!Subject::Anybody.is_echoed_by(&password.into()));
}

proptest! {
    /// Whatever is cached how: two accounts never share an answer.
    #[test]
    fn accounts_are_apart(
        a in ("[ab]", "[uv]?", "[st]", "[xy]"), b in ("[ab]", "[uv]?", "[st]", "[xy]"), by_token in any::<bool>(),
    ) {
        let cache_type = if by_token { TokenCacheType::Token } else { TokenCacheType::ServiceAccount };
        let attributes = attributes(cache_type, RequireServiceAccount::No);
        let [one, other] = [&a, &b].map(|(name, uid, token, region)| {
            let mut claim = claim(name, uid, token);
            claim.annotations.insert("a.io/region".to_owned(), region.clone());
            Subject::of(Some(&attributes), Behalf::Account(&claim)).unwrap()
        });
        if one.shares_answers() == other.shares_answers() {
            prop_assert_eq!((&a.0, &a.1, &a.3), (&b.0, &b.1, &b.3));
            prop_assert!(a.2 == b.2 || !(by_token || a.1.is_empty()));
        }
        if one.shares_questions() == other.shares_questions() {
            prop_assert_eq!(&a, &b);
        }
    }
}
