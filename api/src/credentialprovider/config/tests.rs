use rstest::rstest;
use secrecy::ExposeSecret;

use super::*;

const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\n";

/// A file with one plugin, and `rest` below its name.
fn file(rest: &str) -> String {
    format!("{HEAD}providers:\n- name: ecr\n{}\n", indented(rest))
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

const SOUND: &str = "matchImages: [\"*.dkr.ecr.*.amazonaws.com\", \"r.io:5000/team\"]\ndefaultCacheDuration: 12h\napiVersion: credentialprovider.kubelet.k8s.io/v1\n";

fn with_tokens(rest: &str) -> String {
    file(&format!("{SOUND}tokenAttributes:\n{}", indented(rest)))
}

fn errors(yaml: &str) -> Vec<String> {
    match CredentialProviderConfig::parse(yaml) {
        Err(ConfigError::Invalid(errors)) => errors.iter().map(FieldError::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn reads_a_whole_file() {
    let tokens = "serviceAccountTokenAudience: registry\ncacheType: ServiceAccount\nrequireServiceAccount: true\nrequiredServiceAccountAnnotationKeys: [a.io/Role]\noptionalServiceAccountAnnotationKeys: [b.io/x]\n";
    let yaml = with_tokens(tokens)
        + "  args: [get, --quiet]\n  env:\n  - name: AWS_PROFILE\n    value: hunter2\n  - name: EMPTY\n- name: second\n  matchImages: [q.io]\n  defaultCacheDuration: 0s\n  apiVersion: credentialprovider.kubelet.k8s.io/v1beta1\n";
    let [first, second] = <[_; 2]>::try_from(CredentialProviderConfig::parse(&yaml).unwrap().providers).unwrap();
    assert_eq!((&*first.name, &*second.name), ("ecr", "second"));
    assert_eq!(first.default_cache_duration, Duration::from_secs(12 * 3600));
    assert_eq!(first.args, ["get", "--quiet"]);
    let env: Vec<_> = first.env.iter().map(|var| (&*var.name, var.value.expose_secret())).collect();
    assert_eq!(env, [("AWS_PROFILE", "hunter2"), ("EMPTY", "")]);
    let expected = ServiceAccountTokenAttributes {
        audience: "registry".to_owned(),
        cache_type: TokenCacheType::ServiceAccount,
        require_service_account: RequireServiceAccount::Yes,
        required_annotations: ["a.io/Role".to_owned()].into(),
        optional_annotations: ["b.io/x".to_owned()].into(),
    };
    assert_eq!(first.token_attributes.as_ref(), Some(&expected));
    assert_eq!((second.api_version, second.token_attributes), (ProviderApiVersion::V1Beta1, None));
    assert!(!format!("{first:?}").contains("hunter2"));
}

#[rstest]
#[case("1.dkr.ecr.eu-west-1.amazonaws.com/app", true)]
#[case("dkr.ecr.eu-west-1.amazonaws.com/app", false)]
#[case("r.io:5000/team/app", true)]
#[case("r.io:5000/other", false)]
#[case("r.io/team/app", false)]
fn plugins_are_for_their_images(#[case] repository: &str, #[case] asked: bool) {
    assert_eq!(CredentialProviderConfig::parse(&file(SOUND)).unwrap().providers[0].is_for(repository), asked);
}

#[rstest]
#[case("kubelet.config.k8s.io/v1")]
#[case("kubelet.config.k8s.io/v1beta1")]
#[case("kubelet.config.k8s.io/v1alpha1")]
fn reads_every_version(#[case] version: &str) {
    let yaml = file(SOUND).replace("kubelet.config.k8s.io/v1", version);
    // The same text is in the plugin's version, which stays v1.
    let yaml = yaml.replace(
        &version.replace("kubelet.config", "credentialprovider.kubelet"),
        "credentialprovider.kubelet.k8s.io/v1",
    );
    assert_eq!(CredentialProviderConfig::parse(&yaml).unwrap().providers.len(), 1);
}

#[test]
fn json_is_read_too() {
    let json = r#"{"apiVersion":"kubelet.config.k8s.io/v1","kind":"CredentialProviderConfig","providers":[{"name":"ecr",
        "matchImages":["r.io"],"defaultCacheDuration":"1m","apiVersion":"credentialprovider.kubelet.k8s.io/v1","args":null,"env":null}]}"#;
    assert_eq!(CredentialProviderConfig::parse(json).unwrap().providers[0].name, "ecr");
}

#[rstest]
#[case::nothing("", "")]
#[case::other_kind(&file(SOUND).replace("kind: CredentialProviderConfig", "kind: KubeletConfiguration"), "KubeletConfiguration")]
#[case::other_group(&file(SOUND).replace("kubelet.config.k8s.io/v1", "imagevol.dev/v1"), "CredentialProviderConfig")]
fn refuses_files_of_something_else(#[case] yaml: &str, #[case] written: &str) {
    let ConfigError::Type { kind, .. } = CredentialProviderConfig::parse(yaml).unwrap_err() else { panic!("{yaml}") };
    assert_eq!(kind, written);
}

#[rstest]
#[case::unknown_field(&file(&format!("{SOUND}matchimages: [a]\n")))]
#[case::unknown_top(&format!("{}extra: 1\n", file(SOUND)))]
#[case::unknown_env(&file(&format!("{SOUND}env:\n- name: a\n  valueFrom: {{}}\n")))]
#[case::twice(&file(&format!("{SOUND}args: [a]\nargs: [b]\n")))]
#[case::wrong_type(&file(&format!("{SOUND}args: hunter2\n")))]
#[case::bad_duration(&file(&SOUND.replace("12h", "soon")))]
#[case::negative_duration(&file(&SOUND.replace("12h", "-1s")))]
#[case::no_yaml("{{{")]
fn decodes_strictly(#[case] yaml: &str) {
    assert!(matches!(CredentialProviderConfig::parse(yaml), Err(ConfigError::Parse { .. })), "{yaml}");
}

#[test]
fn errors_show_no_line_of_the_file() {
    let yaml = file(&format!("{SOUND}env:\n- name: TOKEN\n  value: hunter2\n  extra: 1\n"));
    let error = CredentialProviderConfig::parse(&yaml).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
}

#[rstest]
#[case::no_plugins(&format!("{HEAD}providers: []\n"), &["providers: Required value: at least 1 item in plugins is required"])]
#[case::null(&format!("{HEAD}providers:\n"), &["providers: Required value: at least 1 item in plugins is required"])]
#[case::bare(&file("args: []"), &[
    "providers[0].apiVersion: Required value",
    "providers[0].matchImages: Required value: at least 1 item in matchImages is required",
    "providers[0].defaultCacheDuration: Required value",
])]
#[case::no_name(&file(SOUND).replace("name: ecr", "name: \"\""), &["providers[0].name: Required value"])]
#[case::path(&file(SOUND).replace("name: ecr", "name: ../bin/sh"), &[r#"providers[0].name: Invalid value: "../bin/sh": provider name cannot contain '/'"#])]
#[case::spaces(&file(SOUND).replace("name: ecr", "name: a b"), &[r#"providers[0].name: Invalid value: "a b": provider name cannot contain spaces"#])]
#[case::dot(&file(SOUND).replace("name: ecr", "name: ."), &[r#"providers[0].name: Invalid value: ".": provider name cannot be '.'"#])]
#[case::dots(&file(SOUND).replace("name: ecr", "name: .."), &[r#"providers[0].name: Invalid value: "..": provider name cannot be '..'"#])]
#[case::twice(&format!("{0}{1}", file(SOUND), file(SOUND).split_once("providers:\n").unwrap().1), &[r#"providers[1].name: Duplicate value: "ecr""#])]
#[case::unknown_version(&file(&SOUND.replace("k8s.io/v1", "k8s.io/v2")), &[
    r#"providers[0].apiVersion: Unsupported value: "credentialprovider.kubelet.k8s.io/v2": supported values: "credentialprovider.kubelet.k8s.io/v1", "credentialprovider.kubelet.k8s.io/v1alpha1", "credentialprovider.kubelet.k8s.io/v1beta1""#,
])]
#[case::pattern(&file(&SOUND.replace("r.io:5000/team", "r.io:*")), &[
    r#"providers[0].matchImages[1]: Invalid value: "r.io:*": match image is invalid: want host[:port][/path], with * inside parts of the host alone"#,
])]
fn checks_plugins_as_the_kubelet_does(#[case] yaml: &str, #[case] expected: &[&str]) {
    assert_eq!(errors(yaml), expected);
}

const TOKENS: &str = "serviceAccountTokenAudience: registry\ncacheType: Token\nrequireServiceAccount: false\n";
const AT: &str = "providers[0].tokenAttributes";

#[rstest]
#[case::empty("optionalServiceAccountAnnotationKeys: []", &[
    "serviceAccountTokenAudience: Required value",
    "requireServiceAccount: Required value",
    "cacheType: Required value: cacheType is required to be set when tokenAttributes is specified. Supported values are: ServiceAccount, Token",
])]
#[case::cache_type(&TOKENS.replace("Token\n", "Pod\n"), &[r#"cacheType: Unsupported value: "Pod": supported values: "ServiceAccount", "Token""#])]
#[case::required_without_account(&format!("{TOKENS}requiredServiceAccountAnnotationKeys: [a]\n"), &[
    "requiredServiceAccountAnnotationKeys: Forbidden: requireServiceAccount cannot be false when requiredServiceAccountAnnotationKeys is set",
])]
#[case::key(&format!("{TOKENS}optionalServiceAccountAnnotationKeys: [\"a b\"]\n"), &[
    r#"optionalServiceAccountAnnotationKeys[0]: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"#,
])]
#[case::key_twice(&format!("{TOKENS}optionalServiceAccountAnnotationKeys: [a, a]\n"), &[r#"optionalServiceAccountAnnotationKeys[1]: Duplicate value: "a""#])]
fn checks_tokens_as_the_kubelet_does(#[case] tokens: &str, #[case] expected: &[&str]) {
    let expected: Vec<_> = expected.iter().map(|text| format!("{AT}.{text}")).collect();
    assert_eq!(errors(&with_tokens(tokens)), expected);
}

#[test]
fn a_key_is_required_or_optional() {
    let keys = "requiredServiceAccountAnnotationKeys: [a]\noptionalServiceAccountAnnotationKeys: [a, b]\n";
    let yaml = with_tokens(&format!("{}{keys}", TOKENS.replace("false", "true")));
    assert_eq!(
        errors(&yaml),
        [format!(r#"{AT}: Invalid value: "a": annotation keys cannot be both required and optional"#)]
    );
}

#[test]
fn tokens_are_of_the_newest_version() {
    let of_plugin = with_tokens(TOKENS)
        .replace("credentialprovider.kubelet.k8s.io/v1", "credentialprovider.kubelet.k8s.io/v1beta1");
    let expected = "Forbidden: tokenAttributes is only supported for credentialprovider.kubelet.k8s.io/v1 API version";
    assert_eq!(errors(&of_plugin), [format!("{AT}: {expected}")]);
    let of_file = with_tokens(TOKENS).replace("kubelet.config.k8s.io/v1", "kubelet.config.k8s.io/v1beta1");
    let expected = "Forbidden: tokenAttributes is only supported in files of kubelet.config.k8s.io/v1";
    assert_eq!(errors(&of_file), [format!("{AT}: {expected}")]);
}

#[test]
fn several_files_make_one_configuration() {
    let second = file(SOUND).replace("name: ecr", "name: gcr");
    let empty = format!("{HEAD}providers: []\n");
    let files = |texts: &[&str]| texts.iter().map(|text| ProviderFile::decode(text).unwrap()).collect::<Vec<_>>();
    let config = CredentialProviderConfig::new(files(&[&file(SOUND), &empty, &second])).unwrap();
    let names: Vec<_> = config.providers.iter().map(|provider| &*provider.name).collect();
    assert_eq!(names, ["ecr", "gcr"]);
    assert!(CredentialProviderConfig::new(files(&[&second, &second])).is_err());
}
