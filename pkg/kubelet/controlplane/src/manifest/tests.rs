use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;

use rstest::rstest;
use serde_json::json;

use super::*;
use crate::WallClock;
use crate::file::Host;

fn scanner(dir: &Path) -> Scanner {
    let host = Host { node_name: "node1".into(), clock: WallClock::system() };
    let mut scanner = Scanner::new(dir.to_owned(), host, BTreeMap::new());
    scanner.scan(Complete::All);
    scanner
}

fn pod(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  containers:\n  - name: shell\n    image: debian\n    volumeMounts:\n    \
         - name: volume\n      mountPath: /volume\n  volumes:\n  - name: volume\n    image:\n      reference: {image}\n"
    )
}

const SECRET: &str =
    "apiVersion: v1\nkind: Secret\nmetadata:\n  name: regcred\n  namespace: prod\nstringData:\n  key: hunter2\n";

fn outcomes(results: &[ApplyResult]) -> Vec<(&str, &str, &str, Option<ApplyOutcome>)> {
    let of = |result: &'_ ApplyResult| result.outcome;
    let mut all = Vec::new();
    for result in results {
        assert_eq!(result.outcome.is_none(), result.error.is_some(), "{result:?}");
        all.push((result.kind.as_str(), result.namespace.as_str(), result.name.as_str(), of(result)));
    }
    all
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn each_object_becomes_a_private_file_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = format!("{}---\n{SECRET}", pod("web", "r:1"));
    let results = apply(&mut scanner(dir.path()), manifest.as_bytes(), &"x.yaml".into(), DryRun::None);
    let created = Some(ApplyOutcome::Created);
    assert_eq!(outcomes(&results), [("pod", "default", "web", created), ("secret", "prod", "regcred", created)]);
    assert_eq!(files(dir.path()), ["default_web.pod.json", "prod_regcred.secret.json"]);
    for file in files(dir.path()) {
        assert_eq!(fs::metadata(dir.path().join(file)).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let manifests = scanner(dir.path()).manifests();
    assert_eq!((manifests.pods.len(), manifests.secrets.len(), manifests.problems.len()), (1, 1, 0));
}

#[test]
fn a_secret_is_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let results = apply(&mut scanner(dir.path()), SECRET.as_bytes(), &"x.yaml".into(), DryRun::None);
    assert_eq!(
        results[0].object,
        Some(
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "regcred", "namespace": "prod"}, "type": "Opaque"})
        )
    );
    assert!(!format!("{results:?}").contains("hunter2"));
}

#[test]
fn the_answer_has_the_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let results = apply(&mut scanner(dir.path()), pod("web", "r").as_bytes(), &"x.yaml".into(), DryRun::All);
    let object = results[0].object.as_ref().unwrap();
    assert_eq!(object["spec"]["volumes"][0]["image"], json!({"reference": "r", "pullPolicy": "Always"}));
    assert_eq!((&object["metadata"]["namespace"], &object["status"]["phase"]), (&json!("default"), &json!("Pending")));
}

#[test]
fn says_whether_it_changed_something() {
    let dir = tempfile::tempdir().unwrap();
    let mut scanner = scanner(dir.path());
    let mut outcome = |image, dry_run| {
        apply(&mut scanner, pod("web", image).as_bytes(), &"x.yaml".into(), dry_run)[0].outcome.unwrap()
    };
    assert_eq!(outcome("r:1", DryRun::All), ApplyOutcome::Created);
    assert_eq!(outcome("r:1", DryRun::None), ApplyOutcome::Created);
    assert_eq!(outcome("r:1", DryRun::None), ApplyOutcome::Unchanged);
    assert_eq!(outcome("r:2", DryRun::All), ApplyOutcome::Configured);
    assert_eq!(outcome("r:2", DryRun::None), ApplyOutcome::Configured);
    assert_eq!(outcome("r:2", DryRun::None), ApplyOutcome::Unchanged);
}

#[test]
fn a_dry_run_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    apply(&mut scanner(dir.path()), pod("web", "r:1").as_bytes(), &"x.yaml".into(), DryRun::All);
    assert_eq!(files(dir.path()), [""; 0]);
}

#[test]
fn the_same_manifest_is_the_same_pod() {
    let dir = tempfile::tempdir().unwrap();
    let uid = || {
        let mut scanner = scanner(dir.path());
        apply(&mut scanner, pod("web", "r:1").as_bytes(), &"x.yaml".into(), DryRun::None);
        scanner.manifests().pods.into_keys().next().unwrap()
    };
    let first = uid();
    assert_eq!(first, uid());
    remove(&mut scanner(dir.path()), &("pod", ("default".into(), "web".into()))).unwrap();
    assert_eq!(first, uid());
}

#[test]
fn a_file_that_somebody_removed_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut scanner = scanner(dir.path());
    for _ in 0..2 {
        let results = apply(&mut scanner, pod("web", "r:1").as_bytes(), &"x.yaml".into(), DryRun::None);
        assert_eq!(results[0].outcome, Some(ApplyOutcome::Created));
        fs::remove_file(dir.path().join("default_web.pod.json")).unwrap();
    }
}

#[test]
fn a_damaged_file_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut scanner = scanner(dir.path());
    apply(&mut scanner, pod("web", "r:1").as_bytes(), &"x.yaml".into(), DryRun::None);
    fs::write(dir.path().join("default_web.pod.json"), "{").unwrap();
    scanner.scan(Complete::All);
    let results = apply(&mut scanner, pod("web", "r:1").as_bytes(), &"x.yaml".into(), DryRun::None);
    assert_eq!(results[0].outcome, Some(ApplyOutcome::Configured));
    assert_eq!(scanner.manifests().problems, []);
}

#[test]
fn a_file_of_somebody_else_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("mine.yaml"), pod("web", "r:1")).unwrap();
    let mut scanner = scanner(dir.path());
    let same = apply(&mut scanner, pod("web", "r:1").as_bytes(), &"x.yaml".into(), DryRun::None);
    assert_eq!(same[0].outcome, Some(ApplyOutcome::Unchanged));
    let other = apply(&mut scanner, pod("web", "r:2").as_bytes(), &"x.yaml".into(), DryRun::None);
    assert_eq!(
        other[0].error.as_deref(),
        Some(
            "Error from server (Conflict): pod default/web is defined in the manifest file mine.yaml, which apply did not write: \
             change or remove that file"
        )
    );
    assert_eq!(files(dir.path()), ["mine.yaml"]);
}

#[rstest]
#[case::invalid(
    "{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: c, image: i}], volumes: [{name: v, image: {}}]}}",
    ("pod", "x"),
    "The Pod \"x\" is invalid: spec.volumes[0].image.reference: Required value"
)]
#[case::unknown_field(
    "{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {bad: 1, containers: [{name: c, image: i}]}}",
    ("", ""),
    "Error from server (BadRequest): error when creating \"x.yaml\": Pod in version \"v1\" cannot be handled as a Pod: \
     strict decoding error: unknown field \"spec.bad\""
)]
fn one_error_does_not_keep_the_others_back(#[case] bad: &str, #[case] (kind, name): (&str, &str), #[case] error: &str) {
    let dir = tempfile::tempdir().unwrap();
    let manifest = format!("{bad}\n---\n{}", pod("web", "r:1"));
    let results = apply(&mut scanner(dir.path()), manifest.as_bytes(), &"x.yaml".into(), DryRun::None);
    assert_eq!(
        (results[0].kind.as_str(), results[0].name.as_str(), results[0].error.as_deref()),
        (kind, name, Some(error))
    );
    assert_eq!(results[1].outcome, Some(ApplyOutcome::Created));
    assert_eq!(files(dir.path()), ["default_web.pod.json"]);
}

#[test]
fn a_write_that_fails_is_an_error_of_that_object() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("default_web.pod.json")).unwrap();
    let results = apply(&mut scanner(dir.path()), pod("web", "r:1").as_bytes(), &"x.yaml".into(), DryRun::None);
    let error = results[0].error.as_deref().unwrap();
    assert!(
        error.starts_with("Error from server (InternalError): cannot write the manifest file default_web.pod.json: "),
        "{error}"
    );
    assert_eq!(files(dir.path()), ["default_web.pod.json"], "no temporary file is left");
}

#[test]
fn a_name_as_long_as_kubernetes_allows_fits_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let name = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
    let mut scanner = scanner(dir.path());
    let results = apply(&mut scanner, pod(&name, "r:1").as_bytes(), &"x.yaml".into(), DryRun::None);
    assert_eq!(results[0].error, None);
    assert_eq!(scanner.manifests().pods.len(), 1);
    remove(&mut scanner, &("pod", ("default".into(), name))).unwrap();
}

#[test]
fn removes_files_that_hold_one_object() {
    let dir = tempfile::tempdir().unwrap();
    let key = ("pod", ("default".to_owned(), "web".to_owned()));
    let mut scanner = scanner(dir.path());
    assert!(matches!(remove(&mut scanner, &key), Err(RemoveError::NotFound)));
    apply(&mut scanner, pod("web", "r:1").as_bytes(), &"x.yaml".into(), DryRun::None);
    fs::write(dir.path().join("by-hand.yaml"), pod("web", "r:2")).unwrap();
    scanner.scan(Complete::All);
    remove(&mut scanner, &key).unwrap();
    assert_eq!((files(dir.path()), scanner.manifests().pods.len()), (vec![], 0));
}

#[test]
fn a_file_with_several_objects_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("two.yaml"), format!("{}---\n{}", pod("web", "r:1"), pod("db", "r:1"))).unwrap();
    let error = remove(&mut scanner(dir.path()), &("pod", ("default".into(), "web".into()))).unwrap_err();
    assert_eq!(error.to_string(), "it is defined in two.yaml together with 1 more");
    assert_eq!(files(dir.path()), ["two.yaml"]);
}

#[test]
fn what_a_killed_process_left_is_removed_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("a/manifests");
    prepare_directory(&inner).unwrap();
    for name in [".imagevol-half", ".hidden", "good.yaml"] {
        fs::write(inner.join(name), "x").unwrap();
    }
    prepare_directory(&inner).unwrap();
    assert_eq!(files(&inner), [".hidden", "good.yaml"]);
}

#[test]
fn an_object_without_a_namespace_goes_where_the_client_says_and_one_with_another_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let sent = Sent { name: "x.yaml".to_owned(), namespace: Some("team".to_owned()) };
    let results = apply(&mut scanner(dir.path()), pod("web", "r:1").as_bytes(), &sent, DryRun::None);
    assert_eq!((results[0].namespace.as_str(), results[0].outcome), ("team", Some(ApplyOutcome::Created)));
    let other = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web","namespace":"other"}}"#;
    let results = apply(&mut scanner(dir.path()), other.as_bytes(), &sent, DryRun::None);
    assert_eq!(
        results[0].error.as_deref(),
        Some(
            "error: the namespace from the provided object \"other\" does not match the namespace \"team\". \
             You must pass '--namespace=other' to perform this operation."
        )
    );
}
