use imagevol_images::{PullPolicy, PullSecretKind};
use rstest::rstest;
use serde_json::{Value, json};

use super::*;

fn pod(volume: &Value, status: &Value) -> Arc<Pod> {
    let value = json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "uid-1"},
        "spec": {"containers": [], "serviceAccountName": "robot", "volumes": [
            {"name": "scratch", "emptyDir": {}},
            {"name": "models", "csi": volume},
        ]},
        "status": status,
    });
    Arc::new(serde_json::from_value(value).unwrap())
}

fn inline(extra: &Value) -> Value {
    let mut volume = json!({
        "driver": "csi.imagevol.dev",
        "readOnly": true,
        "volumeAttributes": {"image": "r.io/a:1", "pullPolicy": "IfNotPresent"},
    });
    for (key, value) in extra.as_object().unwrap() {
        volume[key] = value.clone();
    }
    volume
}

fn no_secret(_: &str, _: &str) -> Option<PullSecret> {
    None
}

#[test]
fn knows_what_a_kubelet_will_ask_for() {
    let pods = [pod(&inline(&json!({})), &json!({"phase": "Pending"}))];
    let expected = expected(&pods, &no_secret);
    let (target, request) = expected.first_key_value().unwrap();
    assert_eq!(expected.len(), 1);
    let path = "/k/pods/uid-1/volumes/kubernetes.io~csi/models/mount";
    assert_eq!(target.below("/k".as_ref()), std::path::Path::new(path));
    assert_eq!((&*request.reference, request.policy), ("r.io/a:1", Some(PullPolicy::IfNotPresent)));
    assert!(Arc::ptr_eq(&request.pod, &pods[0]));
    assert_eq!(request.claims.service_account.as_ref().unwrap().name, "robot");
}

#[rstest]
#[case::other_driver(inline(&json!({"driver": "other"})), json!({}))]
#[case::refused_for_writing(inline(&json!({"readOnly": null})), json!({}))]
#[case::refused_for_attributes(inline(&json!({"volumeAttributes": {"reference": "r.io/a:1", "policy": "Never"}})), json!({}))]
#[case::secret(inline(&json!({"nodePublishSecretRef": {"name": "s"}})), json!({}))]
#[case::succeeded(inline(&json!({})), json!({"phase": "Succeeded"}))]
#[case::failed(inline(&json!({})), json!({"phase": "Failed"}))]
fn leaves_out(#[case] volume: Value, #[case] status: Value) {
    assert!(expected(&[pod(&volume, &status)], &no_secret).is_empty());
}

#[test]
fn leaves_out_pods_that_are_being_deleted() {
    let mut deleted = (*pod(&inline(&json!({})), &json!({}))).clone();
    deleted.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    assert!(expected(&[Arc::new(deleted)], &no_secret).is_empty());
}

#[test]
fn shows_the_secret_that_the_kubelet_will_show() {
    let pods = [pod(&inline(&json!({"nodePublishSecretRef": {"name": "s"}})), &json!({}))];
    let lookup = |namespace: &str, name: &str| {
        assert_eq!((namespace, name), ("shop", "s"));
        Some(PullSecret::inline(namespace, PullSecretKind::DockerConfigJson, b"{}".to_vec()))
    };
    assert_eq!(expected(&pods, &lookup).into_values().next().unwrap().claims.secrets.len(), 1);
}
