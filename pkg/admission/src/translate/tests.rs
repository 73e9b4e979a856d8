use rstest::rstest;
use serde_json::{Value, json};

use super::{ORIGINAL_VOLUMES, Request, Scope, TRANSLATE, TranslateError, Translation, Verb, translate};
use crate::template::GroupVersionKind;
use crate::test_support::{apply, kind, pod_of, wrap};

fn pod(volumes: impl Into<Value>, extra: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {
            "containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": volumes.into(),
        },
    });
    merge(&mut pod, extra);
    pod
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn image(name: &str, reference: &str, policy: &str) -> Value {
    json!({"name": name, "image": {"reference": reference, "pullPolicy": policy}})
}

fn csi(name: &str, reference: &str, policy: &str) -> Value {
    json!({"name": name, "csi": {
        "driver": "csi.imagevol.dev", "readOnly": true,
        "volumeAttributes": {"reference": reference, "pullPolicy": policy},
    }})
}

struct Case<'a> {
    kind: GroupVersionKind,
    old: Option<&'a Value>,
    scope: Scope,
}

impl Case<'_> {
    fn create(kind_name: &str) -> Self {
        Self { kind: kind(kind_name), old: None, scope: Scope::Namespace }
    }

    fn run(&self, object: &Value) -> Result<Translation, TranslateError> {
        let verb = if self.old.is_some() { Verb::Update } else { Verb::Create };
        translate(&Request { kind: &self.kind, verb, object, old_object: self.old, scope: self.scope })
    }

    /// The object after the translation.
    fn stored(&self, object: &Value) -> Value {
        let mut stored = object.clone();
        apply(&mut stored, &self.run(object).unwrap().patch);
        stored
    }
}

#[test]
fn image_volumes_become_csi_volumes_and_nothing_else_changes() {
    let object = pod(
        json!([
            {"name": "cache", "emptyDir": {"sizeLimit": "1Gi"}},
            image("v", "quay.io/a/b:1", "IfNotPresent"),
            image("w", "quay.io/c/d", "Always"),
            {"name": "x", "csi": {"driver": "csi.imagevol.dev", "volumeAttributes": {"image": "r"}}},
        ]),
        json!({"spec": {
            "unknownField": [1, 2.5, null],
            "containers": [
                {"name": "c", "volumeMounts": [
                    {"name": "v", "mountPath": "/v", "subPath": "srv/www"}, {"name": "cache", "mountPath": "/c"},
                    {"name": "w", "mountPath": "/w", "readOnly": true}, {"name": "v", "mountPath": "/z", "readOnly": false},
                ]},
                {"name": "d"},
            ],
            "initContainers": [{"name": "i", "volumeMounts": [{"name": "w", "mountPath": "/w"}]}],
            "ephemeralContainers": [{"name": "e", "volumeMounts": [{"name": "x", "mountPath": "/x"}]}],
        }}),
    );
    let stored = Case::create("Pod").stored(&object);
    let originals = json!([image("v", "quay.io/a/b:1", "IfNotPresent"), image("w", "quay.io/c/d", "Always")]);
    let mut expected = object.clone();
    expected["spec"]["volumes"][1] = csi("v", "quay.io/a/b:1", "IfNotPresent");
    expected["spec"]["volumes"][2] = csi("w", "quay.io/c/d", "Always");
    for mount in [
        "/spec/containers/0/volumeMounts/0",
        "/spec/containers/0/volumeMounts/3",
        "/spec/initContainers/0/volumeMounts/0",
    ] {
        expected.pointer_mut(mount).unwrap()["readOnly"] = json!(true);
    }
    expected["metadata"]["annotations"] = json!({ORIGINAL_VOLUMES: originals.to_string()});
    assert_eq!(stored, expected);
}

#[rstest]
#[case::pod("Pod")]
#[case::deployment("Deployment")]
#[case::stateful_set("StatefulSet")]
#[case::daemon_set("DaemonSet")]
#[case::replica_set("ReplicaSet")]
#[case::replication_controller("ReplicationController")]
#[case::job("Job")]
#[case::cron_job("CronJob")]
fn every_kind_that_holds_pods_is_translated(#[case] name: &str) {
    let object = wrap(name, pod(json!([image("v", "r:1", "Never")]), json!({})));
    let stored = Case::create(name).stored(&object);
    let pod = pod_of(name, &stored);
    assert_eq!(pod["spec"]["volumes"], json!([csi("v", "r:1", "Never")]));
    assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["readOnly"], true);
    assert_eq!(pod["metadata"]["annotations"][ORIGINAL_VOLUMES], json!([image("v", "r:1", "Never")]).to_string());
}

#[rstest]
#[case::of_another_group("example.com", "v1", "Deployment")]
#[case::of_another_version("apps", "v1beta2", "Deployment")]
#[case::without_pods("", "v1", "ConfigMap")]
fn other_kinds_are_left_alone(#[case] group: &str, #[case] version: &str, #[case] kind: &str) {
    let kind = GroupVersionKind { group: group.to_owned(), version: version.to_owned(), kind: kind.to_owned() };
    let object = wrap("Deployment", pod(json!([image("v", "r:1", "Never")]), json!({})));
    let case = Case { kind, old: None, scope: Scope::Namespace };
    assert_eq!(case.run(&object), Ok(Translation::default()));
}

#[rstest]
#[case::template_absent(json!({"spec": {"replicas": 1}}))]
#[case::template_null(json!({"spec": {"template": null}}))]
#[case::no_volumes(wrap("Deployment", json!({"metadata": {}, "spec": {"containers": []}})))]
#[case::null_volumes(wrap("Deployment", json!({"metadata": null, "spec": {"volumes": null}})))]
fn objects_without_volumes_are_left_alone(#[case] object: Value) {
    assert_eq!(Case::create("ReplicationController").run(&object), Ok(Translation::default()));
}

#[rstest]
#[case::tag("r:1", None, "IfNotPresent")]
#[case::latest("r:latest", None, "Always")]
#[case::no_tag("r", None, "Always")]
#[case::digest("r@sha256:1111111111111111111111111111111111111111111111111111111111111111", None, "IfNotPresent")]
#[case::unparsable("UPPER", None, "IfNotPresent")]
#[case::empty("r", Some(""), "Always")]
#[case::given("r", Some("Never"), "Never")]
fn pull_policy_defaults_as_in_the_api(#[case] reference: &str, #[case] given: Option<&str>, #[case] expected: &str) {
    let mut volume = json!({"name": "v", "image": {"reference": reference}});
    if let Some(policy) = given {
        volume["image"]["pullPolicy"] = json!(policy);
    }
    let stored = Case::create("Pod").stored(&pod(json!([volume]), json!({})));
    assert_eq!(stored["spec"]["volumes"][0]["csi"]["volumeAttributes"]["pullPolicy"], expected);
    let original = json!([image("v", reference, expected)]).to_string();
    assert_eq!(stored["metadata"]["annotations"][ORIGINAL_VOLUMES], original, "the same whoever fills it in");
}

#[rstest]
#[case::none(json!([]), None)]
#[case::null(json!(null), None)]
#[case::first_of_two(json!([{"name": "a"}, {"name": "b"}]), Some("a"))]
#[case::empty_name(json!([{"name": ""}]), None)]
#[case::no_name(json!([{}]), None)]
fn first_pull_secret_is_carried_over(#[case] secrets: Value, #[case] expected: Option<&str>) {
    let object = pod(json!([image("v", "r:1", "Always")]), json!({"spec": {"imagePullSecrets": secrets}}));
    let stored = Case::create("Pod").stored(&object);
    let secret = &stored["spec"]["volumes"][0]["csi"]["nodePublishSecretRef"];
    assert_eq!(*secret, expected.map_or(Value::Null, |name| json!({"name": name})));
    assert_eq!(stored["spec"]["imagePullSecrets"], secrets, "they pull the containers' images too");
}

#[rstest]
#[case::unsaid(json!({}), Scope::Namespace, true)]
#[case::refused(json!({TRANSLATE: "false"}), Scope::Namespace, false)]
#[case::asked_for(json!({TRANSLATE: "true"}), Scope::Namespace, true)]
#[case::misspelt(json!({TRANSLATE: "yes"}), Scope::Namespace, true)]
#[case::elsewhere_unsaid(json!({}), Scope::Annotated, false)]
#[case::elsewhere_asked_for(json!({TRANSLATE: "true"}), Scope::Annotated, true)]
#[case::elsewhere_refused(json!({TRANSLATE: "false"}), Scope::Annotated, false)]
#[case::elsewhere_misspelt(json!({TRANSLATE: "True"}), Scope::Annotated, false)]
fn annotation_wins_over_namespace(#[case] annotations: Value, #[case] scope: Scope, #[case] translated: bool) {
    let object = pod(json!([image("v", "r:1", "Never")]), json!({"metadata": {"annotations": annotations}}));
    let case = Case { kind: kind("Pod"), old: None, scope };
    let translation = case.run(&object).unwrap();
    assert_eq!(!translation.patch.is_empty(), translated);
    let misspelt = annotations.get(TRANSLATE).is_some_and(|value| value != "true" && value != "false");
    assert_eq!(translation.warnings.len(), usize::from(misspelt), "{:?}", translation.warnings);
}

#[test]
fn other_annotations_are_kept() {
    let annotations = json!({"a/b": "c", ORIGINAL_VOLUMES: "not JSON"});
    let object = pod(json!([image("v", "r:1", "Never")]), json!({"metadata": {"annotations": annotations}}));
    let stored = Case::create("Pod").stored(&object);
    let original = json!([image("v", "r:1", "Never")]).to_string();
    assert_eq!(stored["metadata"]["annotations"], json!({"a/b": "c", ORIGINAL_VOLUMES: original}));
}

#[test]
fn metadata_is_made_where_a_template_has_none() {
    let mut object = wrap("Job", pod(json!([image("v", "r:1", "Never")]), json!({})));
    object["spec"]["template"].as_object_mut().unwrap().remove("metadata");
    let stored = Case::create("Job").stored(&object);
    assert!(stored["spec"]["template"]["metadata"]["annotations"][ORIGINAL_VOLUMES].is_string());
}

#[test]
fn original_keeps_fields_that_later_versions_may_know() {
    let volume = json!({"name": "v", "image": {"reference": "r:1", "pullPolicy": "Never", "later": {"b": 1, "a": []}}});
    let stored = Case::create("Pod").stored(&pod(json!([volume]), json!({})));
    let original = stored["metadata"]["annotations"][ORIGINAL_VOLUMES].as_str().unwrap();
    assert_eq!(original, r#"[{"image":{"later":{"a":[],"b":1},"pullPolicy":"Never","reference":"r:1"},"name":"v"}]"#);
}

#[rstest]
#[case::pod_without_reference("Pod", json!({"name": "v", "image": {}}), "spec.volumes[0].image.reference: Required value")]
#[case::pod_with_empty_reference("Pod", json!({"name": "v", "image": {"reference": ""}}), "spec.volumes[0].image.reference: Required value")]
#[case::policy(
    "CronJob", json!({"name": "v", "image": {"reference": "r", "pullPolicy": "Sometimes"}}),
    "spec.jobTemplate.spec.template.spec.volumes[0].image.pullPolicy: Unsupported value: \"Sometimes\": supported values: \
     \"Always\", \"IfNotPresent\", \"Never\""
)]
#[case::two_sources(
    "Deployment", json!({"name": "v", "emptyDir": {}, "image": {"reference": "r"}}),
    "spec.template.spec.volumes[0].image: Forbidden: may not specify more than 1 volume type"
)]
#[case::another_driver(
    "Pod", json!({"name": "v", "csi": {"driver": "example.com"}, "image": {"reference": "r"}}),
    "spec.volumes[0].image: Forbidden: may not specify more than 1 volume type"
)]
fn refuses_what_the_api_server_would(#[case] kind: &str, #[case] volume: Value, #[case] expected: &str) {
    let object = wrap(kind, pod(json!([volume]), json!({})));
    assert_eq!(Case::create(kind).run(&object).unwrap_err().to_string(), expected);
}

#[test]
fn tells_all_refusals() {
    let volumes = json!([
        {"name": "v", "image": {"reference": "r", "pullPolicy": "x"}}, {"name": "w", "image": {}}, image("ok", "r", "Never"),
    ]);
    let error = Case::create("Pod").run(&pod(volumes, json!({}))).unwrap_err().to_string();
    assert!(error.starts_with("[spec.volumes[0].image.pullPolicy: Unsupported value: \"x\""), "{error}");
    assert!(error.ends_with(", spec.volumes[1].image.reference: Required value]"), "{error}");
}

#[test]
fn template_may_lack_a_reference() {
    let volumes = json!([{"name": "v", "image": {"pullPolicy": "Always"}}, image("w", "r:1", "Never")]);
    let object = wrap("Deployment", pod(volumes.clone(), json!({})));
    let case = Case::create("Deployment");
    let translation = case.run(&object).unwrap();
    assert_eq!(
        translation.warnings,
        ["spec.template.spec.volumes[0].image.reference is empty: the volume is left as it is"]
    );
    let stored = case.stored(&object);
    assert_eq!(stored["spec"]["template"]["spec"]["volumes"], json!([volumes[0], csi("w", "r:1", "Never")]));
}

#[test]
fn update_translates_what_a_manifest_says_again() {
    let object = wrap("Deployment", pod(json!([image("v", "r:1", "Never")]), json!({})));
    let stored = Case::create("Deployment").stored(&object);
    let mut applied = stored.clone();
    applied["spec"]["template"]["spec"]["volumes"] = json!([image("v", "r:1", "Never")]);
    let case = Case { kind: kind("Deployment"), old: Some(&stored), scope: Scope::Namespace };
    assert_eq!(case.stored(&applied), stored, "nothing to roll out");
}

#[test]
fn update_takes_the_image_where_server_side_apply_merged_it_into_the_stored_volume() {
    let stored = Case::create("Pod").stored(&pod(json!([image("v", "r:1", "Never")]), json!({})));
    let mut applied = stored.clone();
    applied["spec"]["volumes"][0]["image"] = json!({"reference": "r:2", "pullPolicy": "Always"});
    let case = Case { kind: kind("Pod"), old: Some(&stored), scope: Scope::Namespace };
    let after = case.stored(&applied);
    assert_eq!(after["spec"]["volumes"], json!([csi("v", "r:2", "Always")]));
    assert_eq!(after["metadata"]["annotations"][ORIGINAL_VOLUMES], json!([image("v", "r:2", "Always")]).to_string());
}

#[test]
fn update_leaves_alone_what_it_does_not_change() {
    let stored = wrap("Job", pod(json!([image("v", "r:1", "Never"), image("w", "r:1", "Never")]), json!({})));
    let mut updated = stored.clone();
    updated["spec"]["suspend"] = json!(false);
    let case = Case { kind: kind("Job"), old: Some(&stored), scope: Scope::Namespace };
    assert_eq!(case.run(&updated), Ok(Translation::default()));
    updated["spec"]["template"]["spec"]["volumes"][1] = image("w", "r:2", "Never");
    let after = case.stored(&updated);
    assert_eq!(
        after["spec"]["template"]["spec"]["volumes"],
        json!([image("v", "r:1", "Never"), csi("w", "r:2", "Never")])
    );
}

#[test]
fn annotation_follows_the_volumes_over_updates() {
    let stored =
        Case::create("Pod").stored(&pod(json!([image("v", "r:1", "Never"), image("gone", "r:1", "Never")]), json!({})));
    let mut updated = stored.clone();
    updated["spec"]["volumes"] =
        json!([image("new", "r:1", "Never"), csi("v", "r:1", "Never"), csi("by-hand", "r:1", "Never")]);
    let case = Case { kind: kind("Pod"), old: Some(&stored), scope: Scope::Namespace };
    let after = case.stored(&updated);
    assert_eq!(
        after["metadata"]["annotations"][ORIGINAL_VOLUMES],
        json!([image("new", "r:1", "Never"), image("v", "r:1", "Never")]).to_string()
    );
}

#[rstest]
#[case::of_a_translated_template("Pod", Some("v"), Verb::Create, true)]
#[case::written_by_hand("Pod", None, Verb::Create, false)]
#[case::of_another_volume("Pod", Some("w"), Verb::Create, false)]
#[case::stored_already("Pod", Some("v"), Verb::Update, false)]
#[case::in_a_template("Deployment", Some("v"), Verb::Create, false)]
fn service_accounts_secret_reaches_the_pods_of_templates(
    #[case] name: &str,
    #[case] annotated: Option<&str>,
    #[case] verb: Verb,
    #[case] expected: bool,
) {
    let annotations = annotated
        .map_or(json!({}), |volume| json!({ORIGINAL_VOLUMES: json!([image(volume, "r:1", "Never")]).to_string()}));
    let extra = json!({"metadata": {"annotations": annotations}, "spec": {"imagePullSecrets": [{"name": "s"}]}});
    let object = wrap(name, pod(json!([csi("v", "r:1", "Never")]), extra));
    let request = Request { kind: &kind(name), verb, object: &object, old_object: None, scope: Scope::Namespace };
    let mut stored = object.clone();
    apply(&mut stored, &translate(&request).unwrap().patch);
    let mut wanted = object.clone();
    if expected {
        wanted["spec"]["volumes"][0]["csi"]["nodePublishSecretRef"] = json!({"name": "s"});
    }
    assert_eq!(stored, wanted);
}

#[rstest]
#[case::volumes(json!({"spec": {"volumes": {}}}), "volumes: not a list")]
#[case::volume(json!({"spec": {"volumes": [1]}}), "spec.volumes[0]: not an object")]
#[case::reference(json!({"spec": {"volumes": [{"name": "v", "image": {"reference": 1}}]}}), "reference: not a string")]
#[case::spec(json!({"spec": []}), "spec: not an object")]
#[case::annotation(json!({"metadata": {"annotations": {TRANSLATE: true}}, "spec": {}}), "imagevol.dev/translate: not a string")]
fn malformed_objects_are_refused(#[case] object: Value, #[case] expected: &str) {
    assert_eq!(Case::create("Pod").run(&object).unwrap_err().to_string(), expected);
}

#[rstest]
#[case(Verb::Delete)]
#[case(Verb::Connect)]
fn only_what_is_stored_is_translated(#[case] verb: Verb) {
    let request = Request { kind: &kind("Pod"), verb, object: &Value::Null, old_object: None, scope: Scope::Namespace };
    assert_eq!(translate(&request), Ok(Translation::default()));
}
