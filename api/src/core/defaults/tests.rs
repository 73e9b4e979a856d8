use rstest::rstest;
use serde_json::{Value, json};

use super::*;

fn defaulted(pod: Value) -> Value {
    let mut pod: Pod = serde_json::from_value(pod).unwrap();
    set_defaults_pod(&mut pod);
    let once = pod.clone();
    set_defaults_pod(&mut pod);
    assert_eq!(pod, once, "defaulting is idempotent");
    serde_json::to_value(pod).unwrap()
}

#[test]
fn a_minimal_pod_prints_as_the_api_servers() {
    let pod = json!({"metadata": {"name": "p"}, "spec": {
        "hostNetwork": false, "tolerations": [],
        "containers": [{"name": "c", "image": "debian", "command": [], "tty": false, "volumeMounts": []}],
    }});
    assert_eq!(
        defaulted(pod),
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "default"},
            "spec": {
                "containers": [{
                    "name": "c", "image": "debian", "imagePullPolicy": "Always", "resources": {},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                }],
                "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "restartPolicy": "Always",
                "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30,
            },
        })
    );
}

#[test]
fn keeps_what_is_set() {
    let spec = json!({
        "containers": [{
            "name": "c", "image": "r:1", "imagePullPolicy": "Never", "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
            "terminationMessagePath": "/t", "terminationMessagePolicy": "FallbackToLogsOnError",
        }],
        "dnsPolicy": "None", "enableServiceLinks": false, "restartPolicy": "Never", "schedulerName": "mine",
        "securityContext": {"fsGroup": 1}, "terminationGracePeriodSeconds": 0, "hostUsers": false,
    });
    let pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec});
    assert_eq!(defaulted(pod)["spec"], spec);
}

#[rstest]
#[case(json!({"name": "v"}), json!({"name": "v", "emptyDir": {}}))]
#[case(json!({"name": "v", "image": {"reference": "r", "pullPolicy": ""}}), json!({"name": "v", "image": {"reference": "r", "pullPolicy": "Always"}}))]
#[case(json!({"name": "v", "hostPath": {"path": "/"}}), json!({"name": "v", "hostPath": {"path": "/", "type": ""}}))]
#[case(json!({"name": "v", "secret": {"secretName": "s"}}), json!({"name": "v", "secret": {"secretName": "s", "defaultMode": 420}}))]
#[case(json!({"name": "v", "configMap": {"name": "s", "defaultMode": 256}}), json!({"name": "v", "configMap": {"name": "s", "defaultMode": 256}}))]
#[case(
    json!({"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}),
    json!({"name": "v", "projected": {"defaultMode": 420, "sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]}})
)]
#[case(
    json!({"name": "v", "downwardAPI": {"items": [{"path": "f", "fieldRef": {"fieldPath": "metadata.name"}}]}}),
    json!({"name": "v", "downwardAPI": {"defaultMode": 420, "items": [{"path": "f", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}]}})
)]
fn defaults_volumes(#[case] volume: Value, #[case] expected: Value) {
    let pod = json!({"metadata": {}, "spec": {"containers": [], "volumes": [volume]}});
    assert_eq!(defaulted(pod)["spec"]["volumes"][0], expected);
}

#[test]
fn limits_become_requests_and_ports_get_their_protocol() {
    let container = json!({
        "name": "c", "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1m"}},
        "env": [{"name": "E", "value": ""}, {"name": "F", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        "livenessProbe": {"httpGet": {"port": 1}}, "startupProbe": {"grpc": {"port": 1}, "periodSeconds": 2},
        "lifecycle": {"preStop": {"httpGet": {"port": 1, "path": "/x"}}},
    });
    let pod = defaulted(json!({"metadata": {}, "spec": {"hostNetwork": true, "containers": [container]}}));
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["resources"]["requests"], json!({"cpu": "1m", "memory": "1Gi"}));
    assert_eq!(container["ports"][0], json!({"containerPort": 80, "hostPort": 80, "protocol": "TCP"}));
    assert_eq!(container["env"][0], json!({"name": "E"}));
    assert_eq!(container["env"][1]["valueFrom"]["fieldRef"]["apiVersion"], "v1");
    assert_eq!(
        container["livenessProbe"],
        json!({
            "httpGet": {"port": 1, "path": "/", "scheme": "HTTP"},
            "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
        })
    );
    assert_eq!(container["startupProbe"]["grpc"], json!({"port": 1, "service": ""}));
    assert_eq!(container["startupProbe"]["periodSeconds"], 2);
    assert_eq!(container["lifecycle"]["preStop"]["httpGet"], json!({"port": 1, "path": "/x", "scheme": "HTTP"}));
}

#[test]
fn a_new_pod_is_pending_whatever_its_manifest_says() {
    let mut pod: Pod = serde_json::from_value(json!({
        "metadata": {"generation": 9, "deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Running"},
    }))
    .unwrap();
    prepare_for_create(&mut pod);
    assert_eq!(serde_json::to_value(&pod.status).unwrap(), json!({"phase": "Pending", "qosClass": "BestEffort"}));
    assert_eq!((pod.metadata.generation, pod.metadata.deletion_timestamp), (Some(1), None));
}

#[test]
fn string_data_wins_over_data() {
    let mut secret: Secret =
        serde_json::from_value(json!({"metadata": {}, "data": {"a": "eA==", "b": "eQ=="}, "stringData": {"a": "z"}}))
            .unwrap();
    set_defaults_secret(&mut secret);
    let data = secret.data.unwrap();
    assert_eq!((data["a"].0.as_slice(), data["b"].0.as_slice()), (&b"z"[..], &b"y"[..]));
    assert_eq!((secret.string_data, secret.type_.as_deref()), (None, Some("Opaque")));
}
