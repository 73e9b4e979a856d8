use imagevol_images::PullPolicy;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;

fn pod(volume: &Value) -> Arc<Pod> {
    let value = json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "uid-1"},
        "spec": {"containers": [], "serviceAccountName": "robot", "volumes": [
            {"name": "scratch", "emptyDir": {}},
            {"name": "models", "csi": volume},
        ]},
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

#[test]
fn knows_what_a_kubelet_will_ask_for() {
    let pods = [pod(&inline(&json!({})))];
    let expected = expected(&pods);
    let (target, request) = expected.first_key_value().unwrap();
    assert_eq!(expected.len(), 1);
    let path = "/k/pods/uid-1/volumes/kubernetes.io~csi/models/mount";
    assert_eq!(target.below("/k".as_ref()), std::path::Path::new(path));
    assert_eq!((&*request.reference, request.policy), ("r.io/a:1", Some(PullPolicy::IfNotPresent)));
    assert!(Arc::ptr_eq(&request.pod, &pods[0]));
    assert_eq!(request.claims.service_account.as_ref().unwrap().name, "robot");
}

#[rstest]
#[case::other_driver(inline(&json!({"driver": "other"})))]
#[case::refused_for_writing(inline(&json!({"readOnly": null})))]
#[case::refused_for_attributes(inline(&json!({"volumeAttributes": {"reference": "r.io/a:1", "policy": "Never"}})))]
#[case::secret(inline(&json!({"nodePublishSecretRef": {"name": "s"}})))]
fn leaves_out(#[case] volume: Value) {
    assert!(expected(&[pod(&volume)]).is_empty());
}
