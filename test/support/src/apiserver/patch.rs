//! Patches: JSON merge (RFC 7386), and of the strategic merge what lists of named objects need.

use serde_json::Value;

/// Merges `changes` into `object`: `null` removes, objects merge, anything else replaces.
pub(super) fn merge(object: &mut Value, changes: &Value) {
    let Value::Object(changes) = changes else {
        *object = changes.clone();
        return;
    };
    if !object.is_object() {
        *object = Value::Object(serde_json::Map::new());
    }
    let Value::Object(object) = object else { return };
    for (key, change) in changes {
        if change.is_null() {
            object.remove(key);
        } else {
            merge(object.entry(key.clone()).or_insert(Value::Null), change);
        }
    }
}

/// The same, but elements of lists that have a name are merged with the element of that name.
pub(super) fn strategic_merge(object: &mut Value, changes: &Value) {
    match (object, changes) {
        (Value::Object(object), Value::Object(changes)) => {
            for (key, change) in changes {
                if change.is_null() {
                    object.remove(key);
                } else {
                    strategic_merge(object.entry(key.clone()).or_insert(Value::Null), change);
                }
            }
        }
        (Value::Array(elements), Value::Array(changes)) if changes.iter().all(|change| change["name"].is_string()) => {
            for change in changes {
                match elements.iter_mut().find(|element| element["name"] == change["name"]) {
                    Some(element) => strategic_merge(element, change),
                    None => elements.push(change.clone()),
                }
            }
        }
        (object, changes) => *object = changes.clone(),
    }
}
