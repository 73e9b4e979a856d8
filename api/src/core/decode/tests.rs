use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn texts(manifest: &str) -> Vec<String> {
    decode(manifest.as_bytes(), "f.yaml")
        .into_iter()
        .map(|object| object.map_or_else(|error| error.kubectl_text(), |object| format!("{object:?}")))
        .collect()
}

fn pod(name: &str, rest: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n{rest}")
}

#[test]
fn reads_several_documents_and_lists() {
    let list = "apiVersion: v1\nkind: PodList\nitems:\n- metadata: {name: c}\n- metadata: {name: d}\n";
    let mixed = "{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Secret, metadata: {name: e}}]}\n";
    let manifest =
        format!("# head\n---\n{}--- # next\n{}\n---\n---\n{list}---\n{mixed}...\n", pod("a", ""), pod("b", ""));
    assert_eq!(texts(&manifest), ["Pod(\"a\")", "Pod(\"b\")", "Pod(\"c\")", "Pod(\"d\")", "Secret(\"e\")"]);
}

#[test]
fn reads_json_streams_and_crlf() {
    let json = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}"#;
    assert_eq!(texts(&format!("{json}\n{json}")), ["Pod(\"a\")", "Pod(\"a\")"]);
    assert_eq!(texts(&pod("a", "").replace('\n', "\r\n")), ["Pod(\"a\")"]);
    assert_eq!(texts(&format!("\u{feff}%YAML 1.2\n---\n{}", pod("a", ""))), ["Pod(\"a\")"]);
    assert!(texts("# nothing\n---\n").is_empty());
}

#[test]
fn one_bad_document_does_not_hide_the_others() {
    let manifest = format!("{}---\na: [\n---\n{}", pod("a", ""), pod("b", ""));
    let texts = texts(&manifest);
    assert_eq!((texts[0].as_str(), texts[2].as_str()), ("Pod(\"a\")", "Pod(\"b\")"));
    assert!(texts[1].starts_with("error: error parsing f.yaml: error converting YAML to JSON: yaml: "), "{}", texts[1]);
    assert!(texts[1].contains("line 6"), "line numbers are those of the file: {}", texts[1]);
}

#[rstest]
#[case(
    "spec:\n  volumes: [{name: v, image: {foo: 1, reference: r}}]\n  bar: 1\n",
    r#"strict decoding error: unknown field "spec.bar", unknown field "spec.volumes[0].image.foo""#
)]
#[case(
    "spec: {volumes: [{name: v, name: w}]}\nspec: {}\n",
    r#"strict decoding error: duplicate field "spec.volumes[0].name", duplicate field "spec""#
)]
#[case(
    "spec: {volumes: [{name: v, image: {reference: 1}}]}\n",
    "json: cannot unmarshal number into field spec.volumes[0].image.reference: expected a string"
)]
#[case("spec: {containers: {}}\n", "json: cannot unmarshal object into field spec.containers: expected a sequence")]
fn strict_errors_are_the_api_servers(#[case] rest: &str, #[case] message: &str) {
    let expected = format!(
        r#"Error from server (BadRequest): error when creating "f.yaml": Pod in version "v1" cannot be handled as a Pod: {message}"#
    );
    assert_eq!(texts(&pod("a", rest)), [expected]);
}

#[rstest]
#[case("- a\n", "error: error parsing f.yaml: document is not an object")]
#[case("a: 1\n", r#"error: error validating "f.yaml": error validating data: [apiVersion not set, kind not set]"#)]
#[case("apiVersion: v1\n", r#"error: error validating "f.yaml": error validating data: kind not set"#)]
#[case("kind: Pod\n", r#"error: error validating "f.yaml": error validating data: apiVersion not set"#)]
#[case(
    "kind: Deployment\napiVersion: apps/v1\nmetadata: {name: d}\n",
    "error: resource mapping not found for name: \"d\" namespace: \"\" from \"f.yaml\": no matches for kind \"Deployment\" \
     in version \"apps/v1\": only Pod, Secret and lists of them (v1) can be used"
)]
#[case("kind: PodList\napiVersion: v1\nextra: 1\n",
    r#"Error from server (BadRequest): error when creating "f.yaml": PodList in version "v1" cannot be handled as a PodList: strict decoding error: unknown field "extra""#)]
#[case("{\"a\": ]", "error: error parsing f.yaml: expected value at line 1 column 7")]
fn says_what_is_wrong(#[case] manifest: &str, #[case] expected: &str) {
    assert_eq!(texts(manifest), [expected]);
}

#[test]
fn never_shows_a_value() {
    let wrong = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {password: hunter2!}\n";
    let typed = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {password: [hunter2]}\n";
    let broken = "apiVersion: v1\nkind: Secret\nstringData:\n  password: 'hunter2\n";
    for manifest in [wrong, typed, broken] {
        let errors = decode(manifest.as_bytes(), "f");
        let error = errors[0].as_ref().unwrap_err();
        let shown = format!("{error:?} {error} {} {}", error.reason(), error.kubectl_text());
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn keeps_values_as_yaml_and_kubernetes_mean_them() {
    let rest = "  labels: {1: a}\nspec:\n  containers:\n  - name: c\n    resources: {limits: {cpu: 2, memory: 1Gi}}\n  \
                volumes:\n  - name: v\n    configMap: {name: m, defaultMode: 0644}\n  - name: w\n    image: {reference: null}\n";
    let object = decode(pod("a", rest).as_bytes(), "f").remove(0).unwrap();
    let Object::Pod(pod) = object else { panic!("a pod") };
    assert_eq!(pod.metadata.labels.unwrap()["1"], "a");
    let spec = pod.spec.unwrap();
    assert_eq!(spec.containers[0].resources.as_ref().unwrap().limits.as_ref().unwrap()["cpu"].0, "2");
    let volumes = spec.volumes.unwrap();
    assert_eq!(volumes[0].config_map.as_ref().unwrap().default_mode, Some(0o644));
    assert_eq!(volumes[1].image.as_ref().unwrap().reference, None);
}

/// What kubectl 1.32 sends for the same text.
#[rstest]
#[case("0644", serde_json::json!(420))]
#[case("0o17", serde_json::json!(15))]
#[case("0x1f", serde_json::json!(31))]
#[case("1_000", serde_json::json!(1000))]
#[case("1.0", serde_json::json!(1))]
#[case("1.5", serde_json::json!(1.5))]
#[case("yes", serde_json::json!(true))]
#[case("y", serde_json::json!(true))]
#[case("off", serde_json::json!(false))]
#[case("~", serde_json::json!(null))]
#[case("2001-01-01", serde_json::json!("2001-01-01"))]
#[case("1.2.3", serde_json::json!("1.2.3"))]
#[case("'1'", serde_json::json!("1"))]
#[case("!!str 1", serde_json::json!("1"))]
fn reads_scalars_as_kubectl_does(#[case] text: &str, #[case] value: Value) {
    let tree = split::yaml(&format!("a: {text}\n")).next().unwrap().unwrap();
    assert_eq!(tree.value["a"], value);
}

#[test]
fn refuses_what_eats_memory() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let previous = format!("*a{}", level - 1);
        bomb = format!("{bomb}a{level}: &a{level} [{}]\n", vec![previous; 10].join(", "));
    }
    assert!(texts(&bomb)[0].contains("alias"), "{:?}", texts(&bomb));
    assert!(texts(&"[".repeat(100_000))[0].contains("error converting YAML"));
    assert!(texts(&format!("{{\"a\":{}", "[".repeat(100_000)))[0].contains("error parsing"));
    let long = vec![b' '; MAX_MANIFEST_BYTES + 1];
    assert!(matches!(decode(&long, "f")[0].as_ref().unwrap_err().reason(), DecodeReason::TooLarge { .. }));
    let many = "{}\n---\n".repeat(MAX_OBJECTS + 1);
    assert!(matches!(decode(many.as_bytes(), "f")[0].as_ref().unwrap_err().reason(), DecodeReason::TooMany { .. }));
    assert!(matches!(decode(b"\xff\xfe\x00", "f")[0].as_ref().unwrap_err().reason(), DecodeReason::NotUtf8));
}

proptest! {
    /// Whatever comes, there is an answer, and it comes without a panic.
    #[test]
    fn takes_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        decode(&bytes, "f");
    }

    #[test]
    fn takes_any_yaml_like_text(text in "[-a-z:{}\\[\\],&*#'\"|>%!\\n \\t0-9]{0,200}") {
        decode(text.as_bytes(), "f");
    }

    /// JSON is YAML: both paths give the same pod.
    #[test]
    fn json_and_yaml_agree(name in "[a-z]{1,9}", reference in "[ -~]{0,20}", number in any::<i64>()) {
        let pod = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "generation": number},
            "spec": {"volumes": [{"name": "v", "image": {"reference": reference}}]},
        });
        let as_json = decode(pod.to_string().as_bytes(), "f").remove(0).unwrap();
        let as_yaml = decode(serde_saphyr::to_string(&pod).unwrap().as_bytes(), "f").remove(0).unwrap();
        prop_assert!(as_json == as_yaml);
    }
}
