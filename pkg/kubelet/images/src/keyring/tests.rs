use proptest::prelude::*;
use rstest::rstest;

use super::*;

const PLANTED: &str = "hunter2-planted";

fn json(text: &str) -> DockerConfig {
    DockerConfig::from_config_json(text.as_bytes()).unwrap()
}

/// A configuration whose entries have their key as user name.
fn keys(keys: &[&str]) -> DockerConfig {
    let entry = |key: &&str| (key.to_string(), Entry { auth: user(key), ..Entry::default() });
    DockerConfig { entries: keys.iter().map(entry).collect() }
}

fn user(name: &str) -> AuthConfig {
    AuthConfig { username: name.to_owned(), ..AuthConfig::default() }
}

fn ring(keys_of_secrets: &[&[&str]]) -> Keyring {
    let mut ring = Keyring::default();
    for (number, names) in keys_of_secrets.iter().enumerate() {
        ring.add(&secret(&number.to_string()), keys(names));
    }
    ring
}

fn secret(name: &str) -> CredentialSource {
    let coordinates =
        SecretCoordinates { namespace: "default".to_owned(), name: name.to_owned(), uid: format!("uid-{name}") };
    CredentialSource::Secret(Arc::new(coordinates))
}

fn users(ring: &Keyring, repository: &str) -> Vec<String> {
    ring.lookup(repository).iter().map(|found| found.auth.username.clone()).collect()
}

#[rstest]
#[case::host(&["quay.io", "gcr.io"], "quay.io/a", &["quay.io"])]
#[case::longest_path_first(&["quay.io", "quay.io/team", "quay.io/team/a"], "quay.io/team/a", &["quay.io/team/a", "quay.io/team", "quay.io"])]
#[case::wildcard_after_name(&["*.r.io", "a.r.io"], "a.r.io/x", &["a.r.io", "*.r.io"])]
#[case::default_registry(&["https://index.docker.io/v1/"], "docker.io/library/busybox", &["https://index.docker.io/v1/"])]
#[case::docker_io_wins_over_the_fallback(&["docker.io", "index.docker.io"], "docker.io/library/busybox", &["docker.io"])]
#[case::fallback_is_for_the_default_registry_only(&["index.docker.io"], "quay.io/a", &[])]
#[case::fallback_wants_the_bare_host(&["index.docker.io/library"], "docker.io/library/busybox", &[])]
#[case::nothing(&[], "quay.io/a", &[])]
#[case::localhost(&["localhost:5000"], "localhost:5000/a", &["localhost:5000"])]
fn finds_in_the_kubelets_order(#[case] keys: &[&str], #[case] repository: &str, #[case] found: &[&str]) {
    assert_eq!(users(&ring(&[keys]), repository), found);
}

#[test]
fn equal_keys_keep_the_order_of_the_secrets() {
    let ring = ring(&[&["https://quay.io", "quay.io/team"], &["quay.io"]]);
    let sources: Vec<_> = ring.lookup("quay.io/team/a").into_iter().map(|found| found.source).collect();
    assert_eq!(sources, [secret("0"), secret("0"), secret("1")]);
}

#[rstest]
#[case::fields(r#"{"auths":{"r.io":{"username":"a","password":"b"}}}"#, "a", "b")]
#[case::auth_overrides(r#"{"auths":{"r.io":{"username":"x","password":"y","auth":"YTpi"}}}"#, "a", "b")]
#[case::padded(r#"{"auths":{"r.io":{"auth":"YWE6YmI="}}}"#, "aa", "bb")]
#[case::unpadded(r#"{"auths":{"r.io":{"auth":"YWE6YmI"}}}"#, "aa", "bb")]
#[case::colon_in_password(r#"{"auths":{"r.io":{"auth":"YTpiOmM="}}}"#, "a", "b:c")]
#[case::line_end(r#"{"auths":{"r.io":{"auth":"YTpi\n"}}}"#, "a", "b")]
#[case::null_entry(r#"{"auths":{"r.io":null}}"#, "", "")]
#[case::helpers_are_ignored(
    r#"{"credsStore":"evil","credHelpers":{"r.io":"evil"},"auths":{"r.io":{"auth":"YTpi"}}}"#,
    "a",
    "b"
)]
fn reads_config_json(#[case] text: &str, #[case] username: &str, #[case] password: &str) {
    let entry = &json(text).entries["r.io"];
    assert_eq!((&*entry.auth.username, entry.auth.password.expose_secret()), (username, password));
}

#[test]
fn reads_tokens() {
    let config = json(r#"{"auths":{"r.io":{"identitytoken":"i","registrytoken":"t"},"q.io":{"identitytoken":""}}}"#);
    let tokens = |key: &str| {
        let auth = &config.entries[key].auth;
        [&auth.identity_token, &auth.registry_token].map(|token| token.as_ref().map(|t| t.expose_secret().to_owned()))
    };
    assert_eq!(tokens("r.io"), [Some("i".to_owned()), Some("t".to_owned())]);
    assert_eq!(tokens("q.io"), [None, None]);
}

#[rstest]
#[case("{}")]
#[case(r#"{"auths":null}"#)]
#[case(r#"{"auths":{}}"#)]
#[case(r#"{"credHelpers":{"r.io":"evil"}}"#)]
fn a_configuration_may_hold_nothing(#[case] text: &str) {
    assert!(json(text).entries.is_empty());
}

#[test]
fn reads_dockercfg() {
    let config = DockerConfig::from_dockercfg(br#"{"r.io":{"auth":"YTpi","email":"a@b"}}"#).unwrap();
    assert_eq!((&*config.entries["r.io"].auth.username, &*config.entries["r.io"].email), ("a", "a@b"));
}

#[rstest]
#[case::not_json("hunter2-planted")]
#[case::cut(r#"{"auths":{"r.io":{"password":"hunter2-planted"#)]
#[case::string_for_map(r#"{"auths":"hunter2-planted"}"#)]
#[case::string_for_entry(r#"{"auths":{"r.io":"hunter2-planted"}}"#)]
#[case::array_for_object("[]")]
#[case::array_for_entry(r#"{"auths":{"r.io":["hunter2-planted"]}}"#)]
#[case::number_for_string(r#"{"auths":{"hunter2-planted":{"password":17}}}"#)]
#[case::auth_without_colon(r#"{"auths":{"r.io":{"auth":"aHVudGVyMi1wbGFudGVk"}}}"#)]
#[case::auth_not_base64(r#"{"auths":{"r.io":{"auth":"hunter2-planted!"}}}"#)]
#[case::auth_not_utf8(r#"{"auths":{"r.io":{"auth":"/zr/"}}}"#)]
fn refuses_without_telling_what_it_saw(#[case] text: &str) {
    let error = DockerConfig::from_config_json(text.as_bytes()).unwrap_err();
    assert!(!format!("{error} {error:?}").contains(PLANTED), "{error:?}");
}

#[test]
fn secrets_do_not_reach_debug() {
    let text = format!(
        r#"{{"auths":{{"r.io":{{"password":"{PLANTED}","identitytoken":"{PLANTED}","registrytoken":"{PLANTED}"}}}}}}"#
    );
    let mut ring = Keyring::default();
    ring.add(&CredentialSource::Node, json(&text));
    assert!(!format!("{ring:?} {:?} {:?}", json(&text), ring.lookup("r.io/a")).contains(PLANTED));
}

/// Against what Go's `json.Marshal` writes for the kubelet's `AuthConfig`.
#[rstest]
#[case::both("a", "b", "", r#"{"username":"a","password":"b"}"#)]
#[case::email("a", "b", "c", r#"{"username":"a","password":"b","email":"c"}"#)]
#[case::empty_fields_are_left_out("", "b", "", r#"{"password":"b"}"#)]
#[case::none("", "", "", "{}")]
#[case::escapes(
    "<&>",
    "\"\\\u{2028}\n\u{1}",
    "",
    r#"{"username":"\u003c\u0026\u003e","password":"\"\\\u2028\n\u0001"}"#
)]
fn hashes_as_the_kubelet_does(#[case] username: &str, #[case] password: &str, #[case] email: &str, #[case] go: &str) {
    let auth = AuthConfig { username: username.to_owned(), password: password.into(), ..AuthConfig::default() };
    let hash = CredentialHash::of(&Entry { auth, email: email.to_owned() });
    assert_eq!(hash.as_str(), Digester::sha256(go.as_bytes()).hex());
}

/// `printf '{"username":"a","password":"b"}' | sha256sum`
#[test]
fn a_hash_is_hex_sha256() {
    let auth = AuthConfig { username: "a".to_owned(), password: "b".into(), ..AuthConfig::default() };
    let hash = CredentialHash::of(&Entry { auth, email: String::new() });
    assert_eq!(hash.as_str(), "270bf84dcb14ea407cf5c7d0fc096be15a5ac43afff03775642c33f4ee944718");
}

proptest! {
    #[test]
    fn no_bytes_break_the_parsers(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(DockerConfig::from_config_json(&bytes));
        drop(DockerConfig::from_dockercfg(&bytes));
    }

    /// Tokens and passwords tell credentials apart, however they are split over the fields.
    #[test]
    fn different_credentials_have_different_hashes(a in "[ab]{0,2}", b in "[ab]{0,2}", c in "[ab]{0,2}", d in "[ab]{0,2}") {
        let hash = |username: &str, password: &str| {
            let auth = AuthConfig { username: username.to_owned(), password: password.into(), ..AuthConfig::default() };
            CredentialHash::of(&Entry { auth, ..Entry::default() })
        };
        prop_assert_eq!(hash(&a, &b) == hash(&c, &d), (a, b) == (c, d));
    }
}
