use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{ORIGINAL_VOLUMES, Request, Scope, TRANSLATE, TranslateError, Verb, translate};
use crate::test_support::{KINDS, apply, kind, pod_of, pod_of_mut, wrap};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn source() -> impl Strategy<Value = (&'static str, Value)> {
    prop_oneof![
        3 => (reference(), prop_oneof!["Always", "IfNotPresent", "Never"])
            .prop_map(|(reference, policy)| ("image", json!({"reference": reference, "pullPolicy": policy}))),
        1 => Just(("image", json!({}))),
        1 => any::<Option<u8>>().prop_map(|limit| ("emptyDir", json!({"sizeLimit": limit, "later": [{}]}))),
        1 => reference().prop_map(|name| ("secret", json!({"secretName": name}))),
        1 => Just(("csi", json!({"driver": "csi.imagevol.dev", "volumeAttributes": {"image": "by/hand"}}))),
    ]
}

/// The API server checks no reference: anything may come.
fn reference() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,8}(:[a-z0-9]{1,4})?", "\\PC{1,12}", "[\\x00-\\x1f\"\\\\]{1,4}"]
}

fn volumes() -> impl Strategy<Value = Vec<Value>> {
    proptest::collection::vec(source(), 0..NAMES.len()).prop_map(|sources| {
        let named = sources.into_iter().zip(NAMES);
        named.map(|((field, source), name)| json!({"name": name, field: source})).collect()
    })
}

fn container() -> impl Strategy<Value = Value> {
    let mount = (proptest::sample::select(&NAMES[..]), any::<Option<bool>>(), any::<Option<u8>>());
    proptest::collection::vec(mount, 0..4).prop_map(|mounts| {
        let mounts = mounts.into_iter().enumerate().map(|(index, (name, read_only, sub_path))| {
            let mut mount = json!({"name": name, "mountPath": format!("/{index}")});
            if let Some(value) = read_only {
                mount["readOnly"] = json!(value);
            }
            if let Some(value) = sub_path {
                mount["subPath"] = json!(value.to_string());
            }
            mount
        });
        json!({"name": "c", "volumeMounts": mounts.collect::<Vec<_>>()})
    })
}

fn object() -> impl Strategy<Value = (&'static str, Value)> {
    let containers = || proptest::collection::vec(container(), 0..3);
    let annotations = proptest::option::of(proptest::collection::btree_map("[a-z]{1,3}", "\\PC{0,3}", 0..2));
    let secrets = proptest::option::of(Just(json!([{"name": "first"}, {"name": "second"}])));
    let kinds = proptest::sample::select(&KINDS[..]);
    (kinds, volumes(), containers(), containers(), annotations, secrets).prop_map(
        |(kind, volumes, containers, init_containers, annotations, secrets)| {
            let mut pod = json!({
                "metadata": {"labels": {"app": "x"}},
                "spec": {"volumes": volumes, "containers": containers, "initContainers": init_containers},
            });
            if let Some(map) = annotations {
                pod["metadata"]["annotations"] = json!(map);
            }
            if let Some(list) = secrets {
                pod["spec"]["imagePullSecrets"] = list;
            }
            (kind, wrap(kind, pod))
        },
    )
}

fn translated(name: &str, object: &Value, old_object: Option<&Value>) -> Result<Value, TranslateError> {
    let verb = if old_object.is_some() { Verb::Update } else { Verb::Create };
    let translation = translate(&Request { kind: &kind(name), verb, object, old_object, scope: Scope::Namespace })?;
    let mut stored = object.clone();
    apply(&mut stored, &translation.patch);
    Ok(stored)
}

/// What a user does who wants the object without this driver.
fn reverted(name: &str, stored: &Value) -> Value {
    let mut object = stored.clone();
    let pod = pod_of_mut(name, &mut object);
    let Some(text) = pod.pointer("/metadata/annotations").and_then(|all| all.get(ORIGINAL_VOLUMES)) else {
        return object;
    };
    let originals: Vec<Value> = serde_json::from_str(text.as_str().unwrap()).unwrap();
    for volume in pod["spec"]["volumes"].as_array_mut().unwrap() {
        if let Some(original) = originals.iter().find(|original| original["name"] == volume["name"]) {
            volume.clone_from(original);
        }
    }
    let annotations = pod["metadata"]["annotations"].as_object_mut().unwrap();
    annotations.remove(ORIGINAL_VOLUMES);
    object
}

/// The object with `readOnly: true` wherever an image is mounted, which is how the kubelet mounts it anyway, and with
/// the annotations as a map.
fn normal(name: &str, object: &Value) -> Value {
    let mut object = object.clone();
    let pod = pod_of_mut(name, &mut object);
    pod["metadata"].as_object_mut().unwrap().entry("annotations").or_insert(Value::Object(Map::new()));
    let volumes = pod["spec"]["volumes"].as_array().unwrap().clone();
    let image =
        |name: &Value| volumes.iter().any(|volume| volume["name"] == *name && volume["image"]["reference"].is_string());
    for list in ["containers", "initContainers"] {
        for container in pod["spec"][list].as_array_mut().unwrap() {
            for mount in container["volumeMounts"].as_array_mut().unwrap() {
                if image(&mount["name"]) {
                    mount["readOnly"] = json!(true);
                }
            }
        }
    }
    object
}

/// JSON of no sense, with the words that mean something here in places where they mean nothing.
fn nonsense() -> impl Strategy<Value = Value> {
    let words = proptest::sample::select(
        &[
            "metadata",
            "annotations",
            "spec",
            "template",
            "jobTemplate",
            "volumes",
            "name",
            "image",
            "reference",
            "pullPolicy",
            "csi",
            "driver",
            "csi.imagevol.dev",
            "containers",
            "volumeMounts",
            "readOnly",
            "imagePullSecrets",
            TRANSLATE,
            ORIGINAL_VOLUMES,
            "v",
        ][..],
    );
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        words.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(8, 64, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(words.clone().prop_map(str::to_owned), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Nonsense somewhere in an object that makes sense.
fn damaged() -> impl Strategy<Value = (&'static str, Value)> {
    (object(), nonsense(), any::<proptest::sample::Index>()).prop_map(|((name, mut object), nonsense, index)| {
        let places = pointers(&object, "");
        let place = index.get(&places).clone();
        *object.pointer_mut(&place).unwrap() = nonsense;
        (name, object)
    })
}

fn pointers(value: &Value, at: &str) -> Vec<String> {
    let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
    let below: Vec<_> = match value {
        Value::Object(fields) => {
            fields.iter().flat_map(|(key, value)| pointers(value, &format!("{at}/{}", escaped(key)))).collect()
        }
        Value::Array(items) => {
            items.iter().enumerate().flat_map(|(i, item)| pointers(item, &format!("{at}/{i}"))).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    };
    std::iter::once(at.to_owned()).chain(below).collect()
}

proptest! {
    /// Nothing that anybody sends is a panic, and every patch can be applied.
    #[test]
    fn nonsense_is_an_answer_too((name, object) in damaged(), old in proptest::option::of(damaged())) {
        let Ok(stored) = translated(name, &object, old.as_ref().map(|(_, object)| object)) else { return Ok(()) };
        prop_assert_eq!(translated(name, &stored, Some(&stored)).unwrap(), stored);
    }

    #[test]
    fn reverting_from_the_annotation_gives_the_original((name, object) in object()) {
        let Ok(stored) = translated(name, &object, None) else { return Ok(()) };
        prop_assert_eq!(reverted(name, &stored), if stored == object { object } else { normal(name, &object) });
    }

    #[test]
    fn a_second_translation_changes_nothing((name, object) in object()) {
        let Ok(stored) = translated(name, &object, None) else { return Ok(()) };
        prop_assert_eq!(&translated(name, &stored, None).unwrap(), &stored);
        prop_assert_eq!(&translated(name, &stored, Some(&object)).unwrap(), &stored);
    }

    #[test]
    fn applying_the_manifest_again_gives_what_is_stored((name, object) in object()) {
        let Ok(stored) = translated(name, &object, None) else { return Ok(()) };
        let mut applied = stored.clone();
        pod_of_mut(name, &mut applied)["spec"]["volumes"] = pod_of(name, &object)["spec"]["volumes"].clone();
        prop_assert_eq!(translated(name, &applied, Some(&stored)).unwrap(), stored);
    }

    #[test]
    fn no_image_volume_with_a_reference_is_left((name, object) in object()) {
        let Ok(stored) = translated(name, &object, None) else { return Ok(()) };
        for (before, after) in pod_of(name, &object)["spec"]["volumes"].as_array().unwrap().iter()
            .zip(pod_of(name, &stored)["spec"]["volumes"].as_array().unwrap())
        {
            if before["image"]["reference"].is_string() {
                prop_assert_eq!(&after["csi"]["volumeAttributes"], &before["image"]);
                prop_assert!(after.get("image").is_none());
            } else {
                prop_assert_eq!(before, after);
            }
        }
    }
}
