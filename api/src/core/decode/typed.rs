//! A tree into a typed object, strictly.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::Object;
use super::error::{DecodeReason, Strictness};
use super::tree::MAX_PROBLEMS;

/// Fields of a list object besides its items.
const LIST_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

type Fields = Map<String, Value>;

/// The object that `kind` and `api_version` say, whose fields at `duplicates` were there twice.
pub(super) fn object(
    kind: &str,
    api_version: &str,
    fields: Fields,
    duplicates: Vec<String>,
) -> Result<Object, DecodeReason> {
    match (kind, api_version) {
        ("", "") => Err(DecodeReason::NoType { fields: vec!["apiVersion", "kind"] }),
        (_, "") => Err(DecodeReason::NoType { fields: vec!["apiVersion"] }),
        ("", _) => Err(DecodeReason::NoType { fields: vec!["kind"] }),
        ("Pod", "v1") => strict("Pod", fields, duplicates).map(|pod| Object::Pod(Box::new(pod))),
        ("Secret", "v1") => strict("Secret", fields, duplicates).map(|secret| Object::Secret(Box::new(secret))),
        _ => Err(unsupported(kind, api_version, &fields)),
    }
}

/// The items of a list object.
pub(super) fn items(kind: &str, mut fields: Fields, duplicates: Vec<String>) -> Result<Vec<Value>, DecodeReason> {
    let items = fields.remove("items").unwrap_or(Value::Null);
    let unknown = fields.into_iter().map(|(name, _)| name).filter(|name| !LIST_FIELDS.contains(&name.as_str()));
    refuse(kind, duplicates, unknown.collect())?;
    match items {
        Value::Array(items) => Ok(items),
        Value::Null => Ok(Vec::new()),
        other @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => Err(DecodeReason::Type {
            kind: kind.to_owned(),
            found: name_of(&other),
            path: "items".to_owned(),
            expected: expected("a sequence"),
        }),
    }
}

fn unsupported(kind: &str, api_version: &str, fields: &Fields) -> DecodeReason {
    let name = fields.get("metadata").and_then(|metadata| metadata.get("name")).and_then(Value::as_str);
    DecodeReason::UnsupportedKind {
        kind: kind.to_owned(),
        api_version: api_version.to_owned(),
        name: name.unwrap_or_default().to_owned(),
    }
}

fn strict<T: DeserializeOwned>(kind: &'static str, fields: Fields, duplicates: Vec<String>) -> Result<T, DecodeReason> {
    let value = Value::Object(fields);
    let mut unknown = Vec::new();
    let mut note = |path: serde_ignored::Path<'_>| {
        if unknown.len() < MAX_PROBLEMS {
            unknown.push(render(&path));
        }
    };
    let ignored = serde_ignored::Deserializer::new(&value, &mut note);
    let object = serde_path_to_error::deserialize(ignored).map_err(|error| wrong_type(kind, &value, &error))?;
    refuse(kind, duplicates, unknown)?;
    Ok(object)
}

fn refuse(kind: &str, duplicates: Vec<String>, unknown: Vec<String>) -> Result<(), DecodeReason> {
    let duplicates = duplicates.into_iter().map(Strictness::DuplicateField);
    let problems: Vec<_> = duplicates.chain(unknown.into_iter().map(Strictness::UnknownField)).collect();
    if problems.is_empty() { Ok(()) } else { Err(DecodeReason::Strict { kind: kind.to_owned(), problems }) }
}

/// A path in the API server's notation.
fn render(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", render(parent)),
        Path::Map { parent: Path::Root, key } => key.clone(),
        Path::Map { parent, key } => format!("{}.{key}", render(parent)),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => render(parent),
    }
}

/// Says what the value is and what it should be, but never the value, which may be a secret.
fn wrong_type(kind: &str, document: &Value, error: &serde_path_to_error::Error<serde_json::Error>) -> DecodeReason {
    let path = error.path().to_string();
    let message = error.inner().to_string();
    // Serde's "invalid type: <value>, expected <words of the visitor>": the last part holds nothing of the document.
    let wanted = message.rsplit_once(", expected ").map(|(_, wanted)| expected(wanted)).unwrap_or_default();
    DecodeReason::Type {
        kind: kind.to_owned(),
        found: at(document, error.path()).map_or("value", name_of),
        path,
        expected: wanted,
    }
}

fn expected(wanted: &str) -> String {
    format!(": expected {wanted}")
}

fn at<'v>(document: &'v Value, path: &serde_path_to_error::Path) -> Option<&'v Value> {
    use serde_path_to_error::Segment;
    path.iter().try_fold(document, |value, segment| match segment {
        Segment::Seq { index } => value.get(index),
        Segment::Map { key } => value.get(key),
        Segment::Enum { .. } | Segment::Unknown => None,
    })
}

/// The names that Go's JSON decoder gives to values.
fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
