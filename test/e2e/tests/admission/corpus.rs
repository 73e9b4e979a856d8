//! Pods that a policy and a webhook are to treat alike, for better or worse.

use serde_json::{Value, json};

use crate::manifests::{ORIGINAL, image, pod_of};

/// The API server checks no reference.
const REFERENCES: [&str; 10] = [
    "r",
    "r:latest",
    "UPPER:1",
    " r:1",
    "r:1 ",
    "\u{e9}:1",
    "a\"b\\c",
    "\u{0}\u{1}\u{8}\t\n\u{b}\u{c}\r\u{1f}\u{7f}",
    "<&>\u{2028}\u{1f600}",
    "}\",\"name\":\"w\"}",
];

pub(crate) fn corpus() -> Vec<Value> {
    let volumes = REFERENCES.iter().map(|reference| json!([image("v", reference)])).chain([
        json!([{"name": "v", "image": {"reference": "r"}}]),
        json!([image("v", &"r".repeat(20_000))]),
        json!([image("v", &"\u{1}".repeat(5_000))]),
        json!([]),
        json!([{"name": "v", "csi": ours()}, image("w", "r:1")]),
        json!([{"name": "v", "image": {"reference": "r:1"}, "csi": ours()}]),
        json!([{"name": "v", "image": {"reference": "r"}, "emptyDir": {}}]),
        json!([{"name": "v", "image": {"reference": "r", "pullPolicy": "Sometimes"}}, image("w", "r:1")]),
        json!([{"name": "v", "image": {}}]),
        json!([{"name": "v", "image": {}}, image("w", "r:1")]),
    ]);
    volumes
        .map(|volumes| pod_of(&volumes))
        .chain([large(), bare(), unnamed_secret(), annotated(), late_secret()])
        .collect()
}

fn ours() -> Value {
    let attributes = json!({"reference": "r", "pullPolicy": "Never"});
    json!({"driver": "csi.imagevol.dev", "readOnly": true, "volumeAttributes": attributes})
}

/// Sixty image volumes, each mounted by ten containers.
fn large() -> Value {
    let volumes: Vec<_> = (0..60).map(|index| image(&format!("v{index}"), "quay.io/demo/site:v1")).collect();
    let mut pod = pod_of(&json!(volumes));
    let container = pod["spec"]["containers"][0].clone();
    let containers = (0..10).map(|index| {
        let mut container = container.clone();
        container["name"] = json!(format!("c{index}"));
        container
    });
    pod["spec"]["containers"] = containers.collect();
    pod
}

/// Without annotations.
fn bare() -> Value {
    let mut pod = pod_of(&json!([image("v", "r:1")]));
    pod["metadata"].as_object_mut().unwrap().remove("annotations");
    pod
}

fn unnamed_secret() -> Value {
    let mut pod = pod_of(&json!([image("v", "r:1")]));
    pod["spec"]["imagePullSecrets"] = json!([{}]);
    pod
}

/// One volume that was translated, one that was written by hand, a new one, and one that the annotation alone knows.
fn annotated() -> Value {
    let mut pod = pod_of(&json!([{"name": "v", "csi": ours()}, {"name": "x", "csi": ours()}, image("w", "r:1")]));
    let original = json!([{"image": {"pullPolicy": "Never", "reference": "r"}, "name": "v"}, image("gone", "r")]);
    pod["metadata"]["annotations"][ORIGINAL] = json!(original.to_string());
    pod
}

fn late_secret() -> Value {
    let mut pod = annotated();
    pod["spec"]["imagePullSecrets"] = json!([{"name": "late"}]);
    pod
}
