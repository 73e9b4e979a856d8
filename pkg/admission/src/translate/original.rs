//! The annotation that keeps image volumes as they were written.

use std::collections::BTreeMap;

use serde_json::Value;

/// Annotation of a translated pod or template: a JSON list of its image volumes as they were written.
pub const ORIGINAL_VOLUMES: &str = "imagevol.dev/original-volumes";
/// The same as a part of a JSON pointer.
pub(super) const ORIGINAL_VOLUMES_POINTER: &str = "imagevol.dev~1original-volumes";

/// What the annotation keeps, by the volumes' names.
#[derive(Debug, Default)]
pub(super) struct Originals(BTreeMap<String, Value>);

// === impl Originals ===

impl Originals {
    /// Anybody can write the annotation. One that is not ours says nothing.
    pub(super) fn parse(annotation: Option<&str>) -> Self {
        let list: Vec<Value> = annotation.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let named = |volume: Value| Some((volume.get("name")?.as_str()?.to_owned(), volume));
        Self(list.into_iter().filter_map(named).collect())
    }

    /// What a volume was, if it is known to have been translated.
    pub(super) fn get(&self, volume: &str) -> Option<&Value> {
        self.0.get(volume)
    }
}

/// The text of the annotation. Its keys are sorted, whatever order the rest of the program builds maps in: one content
/// has one text, so that a workload that is applied again is not changed, and rolled out, for nothing.
pub(super) fn text(volumes: &[Value]) -> String {
    Value::Array(volumes.iter().map(sorted).collect()).to_string()
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        Value::Object(fields) => {
            let fields: BTreeMap<_, _> = fields.iter().collect();
            Value::Object(fields.into_iter().map(|(key, value)| (key.clone(), sorted(value))).collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}
