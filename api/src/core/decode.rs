//! Manifests into objects: YAML or JSON, one file or stream, any number of documents, strictly.
//!
//! Whatever is wrong with one document is an error of that document alone. Nothing is guessed: unknown fields, fields
//! given twice and foreign kinds are errors, in the words of the API server and kubectl where those have words for it.

mod error;
mod split;
mod tree;
mod typed;

pub use error::{DecodeError, DecodeReason, Strictness};

use serde_json::Value;

use crate::corev1::{Pod, Secret};

use tree::Tree;

/// Longest manifest that is read (kubelet, `pkg/kubelet/config/common.go`, `maxConfigLength`).
pub const MAX_MANIFEST_BYTES: usize = 10 << 20;
/// Most objects or documents of one manifest: far above what a node can run (a kubelet takes 110 pods by default).
pub const MAX_OBJECTS: usize = 5_000;
/// Kinds whose `items` are objects of their own.
const LISTS: [&str; 3] = ["List", "PodList", "SecretList"];

/// One object of a manifest.
#[derive(Clone, PartialEq)]
pub enum Object {
    /// A pod, as written: neither defaulted nor validated.
    Pod(Box<Pod>),
    /// A secret, as written.
    Secret(Box<Secret>),
}

// === impl Object ===

impl Object {
    /// The object's kind.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Pod(_) => "Pod",
            Self::Secret(_) => "Secret",
        }
    }

    /// The object's name; empty where the manifest has none.
    pub fn name(&self) -> &str {
        let metadata = match self {
            Self::Pod(pod) => &pod.metadata,
            Self::Secret(secret) => &secret.metadata,
        };
        metadata.name.as_deref().unwrap_or_default()
    }

    /// Puts an object that names no namespace into `namespace`. The namespace that it names, if that is another one, is the error.
    pub fn place_in(&mut self, namespace: &str) -> Result<(), String> {
        let metadata = match self {
            Self::Pod(pod) => &mut pod.metadata,
            Self::Secret(secret) => &mut secret.metadata,
        };
        match metadata.namespace.as_deref().filter(|named| !named.is_empty()) {
            Some(named) if named != namespace => Err(named.to_owned()),
            _ => {
                metadata.namespace = Some(namespace.to_owned());
                Ok(())
            }
        }
    }
}

impl std::fmt::Debug for Object {
    /// Kind and name only: secrets never reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple(self.kind()).field(&self.name()).finish()
    }
}

/// Decodes every object of a manifest, in order. `source` (a file name, or `STDIN`) is only for messages.
///
/// Empty documents are left out: an empty file is an empty list. Lists are replaced by their items.
pub fn decode(bytes: &[u8], source: &str) -> Vec<Result<Object, DecodeError>> {
    let mut objects = Vec::new();
    for (index, document) in documents(bytes).into_iter().enumerate() {
        let decoded = document.map_or_else(|reason| vec![Err(reason)], expand);
        let in_file = |reason| DecodeError::new(source, index + 1, reason);
        objects.extend(decoded.into_iter().map(|object| object.map_err(in_file)));
        if objects.len() > MAX_OBJECTS {
            return vec![Err(in_file(DecodeReason::TooMany { limit: MAX_OBJECTS }))];
        }
    }
    objects
}

fn documents(bytes: &[u8]) -> Vec<Result<Tree, DecodeReason>> {
    if bytes.len() > MAX_MANIFEST_BYTES {
        return vec![Err(DecodeReason::TooLarge { limit: MAX_MANIFEST_BYTES })];
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return vec![Err(DecodeReason::NotUtf8)] };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let yaml = || split::yaml(text).take(MAX_OBJECTS + 1).collect();
    // kubectl takes a stream for JSON by its first character, and for YAML after all if that fails.
    if !text.trim_start().starts_with('{') {
        return yaml();
    }
    let json: Vec<_> = split::json(text).take(MAX_OBJECTS + 1).collect();
    if json.iter().all(Result::is_ok) {
        return json;
    }
    let yaml: Vec<_> = yaml();
    if yaml.iter().all(Result::is_ok) { yaml } else { json }
}

/// A document's objects: itself, or the items of a list.
fn expand(document: Tree) -> Vec<Result<Object, DecodeReason>> {
    let Tree { value, duplicates } = document;
    let Value::Object(fields) = value else {
        // A document of nothing but `null` is as empty as one of comments.
        return if value.is_null() { Vec::new() } else { vec![Err(DecodeReason::NotAnObject)] };
    };
    let text = |key: &str| fields.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (kind, api_version) = (text("kind"), text("apiVersion"));
    if !LISTS.contains(&kind.as_str()) || api_version != "v1" {
        return vec![typed::object(&kind, &api_version, fields, duplicates)];
    }
    let item_kind = kind.strip_suffix("List").unwrap_or_default();
    match typed::items(&kind, fields, duplicates) {
        Ok(items) if items.len() > MAX_OBJECTS => vec![Err(DecodeReason::TooMany { limit: MAX_OBJECTS })],
        Ok(items) => items.into_iter().flat_map(|item| expand_item(item, item_kind)).take(MAX_OBJECTS + 1).collect(),
        Err(reason) => vec![Err(reason)],
    }
}

/// Items of a typed list need not say their kind.
fn expand_item(mut item: Value, kind: &str) -> Vec<Result<Object, DecodeReason>> {
    if let (Value::Object(fields), false) = (&mut item, kind.is_empty()) {
        fields.entry("kind").or_insert_with(|| kind.into());
        fields.entry("apiVersion").or_insert_with(|| "v1".into());
    }
    expand(item.into())
}

#[cfg(test)]
mod tests;
