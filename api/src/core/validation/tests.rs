#![expect(clippy::needless_pass_by_value, reason = "the cases of a table are values")]

use std::path::Path as FilePath;

use rstest::rstest;
use serde_json::{Map, Value, json};

use super::*;
use crate::core::decode::{Object, decode};
use crate::core::defaults::set_defaults_pod;
use crate::core::field::invalid_object;

/// Cases of the recorded answers that differ on purpose, with the reason.
const KNOWN_DIFFERENCES: [(&str, &str); 0] = [];

fn recorded() -> Vec<Value> {
    let file = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("../test/data/oracle/validation.json");
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

/// The pod that was sent: named `x`, with one container `c`, and the case's fields.
fn manifest(case: &Map<String, Value>) -> Value {
    let mut spec = json!({"containers": [{"name": "c", "image": "i"}]});
    for (field, value) in case {
        match field.as_str() {
            "volumeMounts" => spec["containers"][0]["volumeMounts"] = value.clone(),
            "containers[0].securityContext" => spec["containers"][0]["securityContext"] = value.clone(),
            field => spec[field] = value.clone(),
        }
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec})
}

/// What kubectl would print for the pod: the defaulted volumes and mounts, or the error.
fn answer(pod: &Value) -> Result<Value, String> {
    let decoded = decode(pod.to_string().as_bytes(), "STDIN").remove(0);
    let object =
        decoded.map_err(|error| format!("Error from server (BadRequest): {}", error.reason().server_message()))?;
    let Object::Pod(mut pod) = object else { panic!("a pod") };
    set_defaults_pod(&mut pod);
    let errors = validate_pod(&pod);
    if !errors.is_empty() {
        return Err(invalid_object("Pod", "x", &errors));
    }
    let spec = serde_json::to_value(pod.spec).unwrap();
    Ok(json!({"volumes": spec["volumes"], "volumeMounts": spec["containers"][0]["volumeMounts"]}))
}

#[test]
fn answers_as_a_real_api_server_did() {
    let cases = recorded();
    assert_eq!(cases.len(), 81);
    for case in cases {
        let name = case["case"].as_str().unwrap();
        let expected =
            case["error"].as_str().map_or_else(|| Ok(case["defaulted"].clone()), |error| Err(error.to_owned()));
        assert_eq!(case["accepted"].as_bool(), Some(expected.is_ok()), "{name}");
        let differs = KNOWN_DIFFERENCES.iter().any(|(known, _)| *known == name);
        assert_eq!(answer(&manifest(case["pod"].as_object().unwrap())) == expected, !differs, "{name}: {expected:?}");
    }
}

fn errors(metadata: Value, spec: Value) -> Vec<String> {
    let mut pod = serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap();
    set_defaults_pod(&mut pod);
    validate_pod(&pod).iter().map(ToString::to_string).collect()
}

fn errors_of_spec(spec: Value) -> Vec<String> {
    let mut whole = json!({"containers": [{"name": "c", "image": "i"}]});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    errors(json!({"name": "x"}), whole)
}

#[rstest]
#[case(json!({}), "metadata.name: Required value: name or generateName is required")]
#[case(json!({"generateName": "x-"}), "metadata.generateName: Forbidden: names are not generated on a node: set metadata.name")]
#[case(json!({"name": "x", "namespace": "a.b"}), r#"metadata.namespace: Invalid value: "a.b": must not contain dots"#)]
#[case(json!({"name": "x", "annotations": {"a": "x".repeat(300_000)}}), "metadata.annotations: Too long: may not be more than 262144 bytes")]
#[case(json!({"name": "x", "uid": "../../etc"}),
    r#"metadata.uid: Invalid value: "../../etc": must be at most 255 letters, digits, '-', '_' and '.', and neither '.' nor '..'"#)]
#[case(json!({"name": "x", "annotations": {"imagevol.dev/pull-failure-policy": "fail"}}),
    r#"metadata.annotations[imagevol.dev/pull-failure-policy]: Unsupported value: "fail": supported values: "Fail", "Retry""#)]
fn checks_metadata(#[case] metadata: Value, #[case] error: &str) {
    assert_eq!(errors(metadata, json!({"containers": [{"name": "c", "image": "i"}]})), [error]);
}

#[test]
fn a_pod_needs_containers_with_names_and_images() {
    assert_eq!(errors(json!({"name": "x"}), json!({})), ["spec.containers: Required value"]);
    let containers = json!([{"name": "", "image": " i"}, {"name": "a.b", "image": ""}, {"name": "a.b", "image": "i"}]);
    assert_eq!(
        errors_of_spec(json!({"containers": containers})),
        [
            "spec.containers[0].name: Required value",
            r#"spec.containers[1].name: Invalid value: "a.b": must not contain dots"#,
            "spec.containers[1].image: Required value",
            r#"spec.containers[2].name: Invalid value: "a.b": must not contain dots"#,
            r#"spec.containers[2].name: Duplicate value: "a.b""#,
            r#"spec.containers[0].image: Invalid value: " i": must not have leading or trailing whitespace"#,
        ]
    );
}

#[test]
fn init_and_ephemeral_containers_follow_the_same_rules() {
    let mounts = json!([{"name": "w", "mountPath": "/v"}]);
    let sub_path = json!([{"name": "v", "mountPath": "/v", "subPath": "a"}]);
    let spec = json!({
        "volumes": [{"name": "v", "image": {"reference": "r"}}],
        "initContainers": [{"name": "c", "image": "i", "volumeMounts": mounts}],
        "ephemeralContainers": [{"name": "e", "image": "i", "volumeMounts": sub_path, "targetContainerName": "z", "ports": [{"containerPort": 1}]}],
    });
    assert_eq!(
        errors_of_spec(spec),
        [
            r#"spec.initContainers[0].volumeMounts[0].name: Not found: "w""#,
            r#"spec.initContainers[0].name: Duplicate value: "c""#,
            r#"spec.ephemeralContainers[0].targetContainerName: Not found: "z""#,
            "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
            "spec.ephemeralContainers[0].volumeMounts[0].subPath: Forbidden: cannot be set for an Ephemeral Container",
            "spec.ephemeralContainers: Forbidden: cannot be set on create",
        ]
    );
}

#[test]
fn a_volume_has_one_source() {
    let volume = json!({"name": "v", "emptyDir": {}, "image": {"reference": "r"}, "secret": {"secretName": "s"}});
    assert_eq!(
        errors_of_spec(json!({"volumes": [volume]})),
        [
            "spec.volumes[0].secret: Forbidden: may not specify more than 1 volume type",
            "spec.volumes[0].image: Forbidden: may not specify more than 1 volume type",
        ]
    );
    let volume = json!({"name": "v", "hostPath": {"path": ""}});
    assert_eq!(errors_of_spec(json!({"volumes": [volume]})), ["spec.volumes[0].hostPath.path: Required value"]);
}

#[test]
fn devices_and_mounts_do_not_mix() {
    let container = json!({
        "name": "c", "image": "i",
        "volumeMounts": [{"name": "v", "mountPath": "/d"}],
        "volumeDevices": [{"name": "v", "devicePath": "/d"}, {"name": "w", "devicePath": "/a/../b"}],
    });
    let spec = json!({"volumes": [{"name": "v", "image": {"reference": "r"}}], "containers": [container]});
    let (mount, device) = ("spec.containers[0].volumeMounts[0]", "spec.containers[0].volumeDevices");
    assert_eq!(
        errors_of_spec(spec),
        [
            format!(r#"{mount}.name: Invalid value: "v": must not already exist in volumeDevices"#),
            format!(r#"{mount}.mountPath: Invalid value: "/d": must not already exist as a path in volumeDevices"#),
            format!(
                r#"{device}[0].name: Invalid value: "v": can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"#
            ),
            format!(r#"{device}[0].name: Invalid value: "v": must not already exist in volumeMounts"#),
            format!(r#"{device}[0].devicePath: Invalid value: "/d": must not already exist as a path in volumeMounts"#),
            format!(r#"{device}[1].name: Not found: "w""#),
            format!(r#"{device}[1].devicePath: Invalid value: "/a/../b": can not contain backsteps ('..')"#),
        ]
    );
}

#[rstest]
#[case(json!({"restartPolicy": "No"}), r#"spec.restartPolicy: Unsupported value: "No": supported values: "Always", "OnFailure", "Never""#)]
#[case(json!({"os": {"name": "plan9"}}), r#"spec.os: Unsupported value: "plan9": supported values: "linux", "windows""#)]
#[case(json!({"hostname": "a.b"}), r#"spec.hostname: Invalid value: "a.b": must not contain dots"#)]
#[case(json!({"activeDeadlineSeconds": 0}), "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive")]
#[case(json!({"nodeName": "n", "schedulingGates": [{"name": "g"}]}), "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared")]
#[case(json!({"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "x"}}}]}),
    r#"spec.containers[0].resources.limits[cpu]: Invalid value: "x": quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"#)]
#[case(json!({"volumes": [{"name": "e", "ephemeral": {}}, {"name": "p", "persistentVolumeClaim": {"claimName": "x-e"}}]}),
    r#"spec.volumes[1].persistentVolumeClaim.claimName: Invalid value: "x-e": must not reference a PVC that gets created for an ephemeral volume"#)]
fn checks_the_rest_of_a_spec(#[case] spec: Value, #[case] error: &str) {
    // Requests are defaulted from limits, so a bad limit is a bad request too.
    assert_eq!(errors_of_spec(spec)[0], error);
}

#[test]
fn takes_a_thousand_volumes() {
    let names: Vec<_> = (0..1_000).map(|index| format!("v{index}")).collect();
    let volumes: Vec<_> = names.iter().map(|name| json!({"name": name, "image": {"reference": "r"}})).collect();
    let mounts: Vec<_> = names.iter().map(|name| json!({"name": name, "mountPath": format!("/{name}")})).collect();
    let containers = json!([{"name": "c", "image": "i", "volumeMounts": mounts}]);
    assert!(errors_of_spec(json!({"volumes": volumes, "containers": containers})).is_empty());
}
