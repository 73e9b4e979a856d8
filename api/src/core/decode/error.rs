//! Why a document is no object.

use std::fmt;

use crate::core::quote::GoQuoted;

/// A document that cannot be used. The cause is its [`reason`](Self::reason), also through `Error::source`.
#[derive(Debug, thiserror::Error)]
#[error("cannot decode document {document} of {}", GoQuoted(.origin))]
pub struct DecodeError {
    origin: String,
    document: usize,
    #[source]
    reason: DecodeReason,
}

/// What is wrong with a document. No text shows a value of the document: it may be a secret.
#[derive(Debug, thiserror::Error)]
pub enum DecodeReason {
    /// The file is longer than a manifest may be; none of it was read.
    #[error("manifest is longer than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The manifest holds more objects than any node has pods; none of them was used.
    #[error("manifest holds more than {limit} objects")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The file is binary.
    #[error("manifest is not valid UTF-8")]
    NotUtf8,
    /// The document is no YAML, or needs more than a manifest's budget of nodes, depth or aliases.
    #[error("error converting YAML to JSON: yaml: {message}")]
    Yaml {
        /// The parser's words, with line and column where it knows them.
        message: String,
    },
    /// The document is no JSON.
    #[error("error parsing JSON")]
    Json(#[source] serde_json::Error),
    /// The document is a scalar or a list.
    #[error("document is not an object")]
    NotAnObject,
    /// There is no API version, no kind, or neither.
    #[error("{}", missing(.fields))]
    NoType {
        /// The missing fields.
        fields: Vec<&'static str>,
    },
    /// The kind is none that a node's manifests may hold.
    #[error("no matches for kind {} in version {}: only Pod, Secret and lists of them (v1) can be used", GoQuoted(.kind), GoQuoted(.api_version))]
    UnsupportedKind {
        /// The kind as written.
        kind: String,
        /// The API version as written.
        api_version: String,
        /// The object's name, for the message; may be empty.
        name: String,
    },
    /// A value has the wrong type.
    #[error(
        "{kind} in version \"v1\" cannot be handled as a {kind}: json: cannot unmarshal {found} into field {path}{expected}"
    )]
    Type {
        /// The object's kind.
        kind: String,
        /// What the value is, in JSON's words.
        found: &'static str,
        /// Where it is.
        path: String,
        /// ` of type …`, or nothing.
        expected: String,
    },
    /// Fields that the kind does not have, or that are there twice.
    #[error("{kind} in version \"v1\" cannot be handled as a {kind}: strict decoding error: {}", join(.problems))]
    Strict {
        /// The object's kind.
        kind: String,
        /// Each such field.
        problems: Vec<Strictness>,
    },
}

/// One violation of strict decoding, with the field's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Strictness {
    /// The kind has no such field.
    UnknownField(String),
    /// The field is there more than once.
    DuplicateField(String),
}

// === impl DecodeError ===

impl DecodeError {
    pub(super) fn new(source: &str, document: usize, reason: DecodeReason) -> Self {
        Self { origin: source.to_owned(), document, reason }
    }

    /// The file's name as the caller gave it.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Which document of the file it is, from 1.
    pub fn document(&self) -> usize {
        self.document
    }

    /// What is wrong.
    pub fn reason(&self) -> &DecodeReason {
        &self.reason
    }

    /// The line that kubectl prints for `kubectl create -f` of the same document, without a final newline.
    pub fn kubectl_text(&self) -> String {
        let (source, reason) = (GoQuoted(&self.origin), &self.reason);
        match reason {
            DecodeReason::Strict { .. } | DecodeReason::Type { .. } => {
                format!("Error from server (BadRequest): error when creating {source}: {reason}")
            }
            DecodeReason::UnsupportedKind { name, .. } => format!(
                "error: resource mapping not found for name: {} namespace: \"\" from {source}: {reason}",
                GoQuoted(name)
            ),
            // kubectl goes on with advice on its flag --validate, which imagevol does not have.
            DecodeReason::NoType { .. } => {
                format!("error: error validating {source}: error validating data: {reason}")
            }
            DecodeReason::Json(cause) => format!("error: error parsing {}: {cause}", self.origin_unquoted()),
            DecodeReason::TooLarge { .. }
            | DecodeReason::TooMany { .. }
            | DecodeReason::NotUtf8
            | DecodeReason::Yaml { .. }
            | DecodeReason::NotAnObject => {
                format!("error: error parsing {}: {reason}", self.origin_unquoted())
            }
        }
    }

    /// kubectl does not quote the file here; what is unprintable in its name is escaped all the same.
    fn origin_unquoted(&self) -> String {
        GoQuoted(&self.origin).to_string().trim_matches('"').to_owned()
    }
}

// === impl DecodeReason ===

impl DecodeReason {
    /// What an API server answers to such a document: the text after `Error from server (BadRequest): `.
    pub fn server_message(&self) -> String {
        self.to_string()
    }
}

// === impl Strictness ===

impl fmt::Display for Strictness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownField(path) => write!(f, "unknown field {}", GoQuoted(path)),
            Self::DuplicateField(path) => write!(f, "duplicate field {}", GoQuoted(path)),
        }
    }
}

fn missing(fields: &[&str]) -> String {
    match fields {
        [field] => format!("{field} not set"),
        fields => format!("[{} not set]", fields.join(" not set, ")),
    }
}

fn join(problems: &[Strictness]) -> String {
    problems.iter().map(Strictness::to_string).collect::<Vec<_>>().join(", ")
}
