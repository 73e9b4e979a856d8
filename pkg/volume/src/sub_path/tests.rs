use rstest::rstest;

use super::*;

fn pod(mount: &str) -> Pod {
    let env = r#"[{"name":"A","value":"one"},{"name":"B","value":"$(A)-two"},
            {"name":"HALF","value":"$(A)-$(NONE)"},{"name":"EMPTY","value":""},
            {"name":"IP","valueFrom":{"fieldRef":{"fieldPath":"status.podIP"}}},
        {"name":"POD","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}},
        {"name":"L","valueFrom":{"fieldRef":{"fieldPath":"metadata.labels['x']"}}},
        {"name":"S","valueFrom":{"secretKeyRef":{"name":"s","key":"k"}}},{"name":"OF_S","value":"$(S)/x"}]"#;
    let text = format!(
        r#"{{"metadata":{{"name":"p","labels":{{"x":"y"}}}},"spec":{{"containers":[
        {{"name":"other"}},{{"name":"c","env":{env},"volumeMounts":[{{"name":"v","mountPath":"/whole"}},{mount}]}}]}}}}"#
    );
    serde_json::from_str(&text).unwrap()
}

fn wanted_of(pod: &Pod) -> Vec<SubPathMount> {
    sub_path_mounts(pod, &"v".parse().unwrap())
}

#[rstest]
#[case(r#""subPath":"a/b""#, "a/b")]
#[case(r#""subPathExpr":"$(A)""#, "one")]
#[case(r#""subPathExpr":"$(B)/$(POD)/$(L)""#, "one-two/p/y")]
#[case(r#""subPathExpr":"$$(A)$x""#, "$(A)$x")]
#[case(r#""subPathExpr":"$(HALF)""#, "one-$(NONE)")]
#[case(r#""subPathExpr":"a$(A""#, "a$(A")]
fn finds_and_expands(#[case] field: &str, #[case] expected: &str) {
    let pod = pod(&format!(r#"{{"name":"v","mountPath":"/m",{field}}}"#));
    let mounts = wanted_of(&pod);
    assert_eq!(mounts.len(), 1, "the whole volume is no sub path");
    assert_eq!((mounts[0].container.as_str(), mounts[0].index), ("c", 1));
    assert_eq!(mounts[0].sub_path.as_ref().unwrap().as_str(), expected);
}

#[rstest]
#[case(r#""subPathExpr":"$(NONE)""#, "missing value for NONE")]
#[case(r#""subPathExpr":"$(Z)/$(NONE)/$(EMPTY)/$(Z)""#, "missing value for EMPTY, NONE, Z")]
#[case(
    r#""subPathExpr":"$(S)""#,
    "value of \"S\" is not known: it comes from an object that is not at hand on this node"
)]
#[case(
    r#""subPathExpr":"$(OF_S)""#,
    "value of \"OF_S\" is not known: it comes from an object that is not at hand on this node"
)]
#[case(r#""subPathExpr":"$(IP)""#, "value of \"IP\" is not known: field \"status.podIP\" has no value on this node")]
#[case(r#""subPathExpr":"/$(A)""#, "unable to provision SubPath `/one`: must be a relative path")]
#[case(r#""subPathExpr":"$(A)/../..""#, "unable to provision SubPath `one/../..`: must not contain '..'")]
fn says_when_the_pod_is_at_fault(#[case] field: &str, #[case] message: &str) {
    let pod = pod(&format!(r#"{{"name":"v","mountPath":"/m",{field}}}"#));
    let error = wanted_of(&pod).remove(0).sub_path.unwrap_err();
    assert_eq!((error.reason, error.message.as_str()), ("CreateContainerConfigError", message));
}

#[test]
fn all_kinds_of_containers_mount_sub_paths() {
    let container = r#"{"name":"NAME","volumeMounts":[{"name":"v","mountPath":"/m","subPath":"a"}]}"#;
    let of = |name: &str| container.replace("NAME", name);
    let text = format!(
        r#"{{"spec":{{"initContainers":[{}],"containers":[{}],"ephemeralContainers":[{}]}}}}"#,
        of("i"),
        of("c"),
        of("e")
    );
    let mounts = wanted_of(&serde_json::from_str(&text).unwrap());
    assert_eq!(mounts.iter().map(|mount| mount.container.as_str()).collect::<Vec<_>>(), ["i", "c", "e"]);
}

#[test]
fn the_first_container_that_mounts_it_is_found() {
    let pod = pod(r#"{"name":"w","mountPath":"/m"}"#);
    assert_eq!(first_container_of(&pod, &"w".parse().unwrap()), Some("c"));
    assert_eq!(first_container_of(&pod, &"unused".parse().unwrap()), None);
}
