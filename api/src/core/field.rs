//! What is wrong with one field of an object, in the API server's words (apimachinery, `util/validation/field`).

use std::collections::BTreeSet;
use std::fmt;

use super::quote::{GoQuoted, JsonQuoted};

/// One error about one field. `Display` is `<field>: <type>[: <value>][: <detail>]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    field: String,
    kind: FieldErrorKind,
    detail: String,
}

/// The type of a [`FieldError`], with the offending value where the text shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// The field is empty and may not be.
    Required,
    /// The value is malformed.
    Invalid(Value),
    /// The value is none of the allowed ones.
    NotSupported(Value),
    /// The value occurs twice where it may not.
    Duplicate(Value),
    /// The value names something that is not there.
    NotFound(Value),
    /// The value is well formed and may not be used here.
    Forbidden,
    /// The value is too long to be shown.
    TooLong,
}

/// A value as an error shows it: strings quoted, numbers bare, as Go prints them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Shown as Go's `%q`.
    Text(String),
    /// A value of a named string type: shown as JSON.
    Name(String),
    /// Shown as it is.
    Number(i64),
}

/// A path of fields such as `spec.volumes[0].image`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path(String);

// === impl Path ===

impl Path {
    /// A path of one field.
    pub fn new(root: &str) -> Self {
        Self(root.to_owned())
    }

    /// A field below this one.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        Self(format!("{}.{name}", self.0))
    }

    /// An element of this list.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// A value of this map.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    /// The field is empty and may not be.
    pub fn required(&self, detail: &str) -> FieldError {
        self.error(FieldErrorKind::Required, detail)
    }

    /// The value is malformed.
    pub fn invalid(&self, value: impl Into<Value>, detail: impl Into<String>) -> FieldError {
        self.error(FieldErrorKind::Invalid(value.into()), detail)
    }

    /// The value is none of `supported`, which are listed in the order given.
    pub fn not_supported(&self, value: &str, supported: &[&str]) -> FieldError {
        let quoted: Vec<_> = supported.iter().map(|value| GoQuoted(value).to_string()).collect();
        self.error(
            FieldErrorKind::NotSupported(Value::Name(value.to_owned())),
            format!("supported values: {}", quoted.join(", ")),
        )
    }

    /// The value occurs twice.
    pub fn duplicate(&self, value: &str) -> FieldError {
        self.error(FieldErrorKind::Duplicate(value.into()), "")
    }

    /// The value names something that is not there.
    pub fn not_found(&self, value: &str) -> FieldError {
        self.error(FieldErrorKind::NotFound(value.into()), "")
    }

    /// The value may not be used here.
    pub fn forbidden(&self, detail: &str) -> FieldError {
        self.error(FieldErrorKind::Forbidden, detail)
    }

    /// The value has more than `limit` bytes.
    pub fn too_long(&self, limit: usize) -> FieldError {
        self.error(FieldErrorKind::TooLong, format!("may not be more than {limit} bytes"))
    }

    fn error(&self, kind: FieldErrorKind, detail: impl Into<String>) -> FieldError {
        FieldError { field: self.0.clone(), kind, detail: detail.into() }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl FieldError ===

impl FieldError {
    /// The path of the field.
    pub fn field(&self) -> &str {
        &self.field
    }

    /// What sort of error it is.
    pub fn kind(&self) -> &FieldErrorKind {
        &self.kind
    }

    /// The text after type and value; may be empty.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The text without the field, as the `message` of a `StatusCause` has it.
    pub fn body(&self) -> String {
        if self.detail.is_empty() { self.kind.to_string() } else { format!("{}: {}", self.kind, self.detail) }
    }
}

impl std::error::Error for FieldError {}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

// === impl FieldErrorKind ===

impl FieldErrorKind {
    /// The `reason` of a `StatusCause` (meta/v1, `CauseType`).
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid(_) => "FieldValueInvalid",
            Self::NotSupported(_) => "FieldValueNotSupported",
            Self::Duplicate(_) => "FieldValueDuplicate",
            Self::NotFound(_) => "FieldValueNotFound",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
        }
    }
}

impl fmt::Display for FieldErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Required => f.write_str("Required value"),
            Self::Invalid(value) => write!(f, "Invalid value: {value}"),
            Self::NotSupported(value) => write!(f, "Unsupported value: {value}"),
            Self::Duplicate(value) => write!(f, "Duplicate value: {value}"),
            Self::NotFound(value) => write!(f, "Not found: {value}"),
            Self::Forbidden => f.write_str("Forbidden"),
            Self::TooLong => f.write_str("Too long"),
        }
    }
}

// === impl Value ===

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => GoQuoted(text).fmt(f),
            Self::Name(name) => JsonQuoted(name).fmt(f),
            Self::Number(number) => number.fmt(f),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Self::Number(number.into())
    }
}

/// What kubectl prints for an object with field errors: one inline, several as a list, equal ones once; no final newline.
///
/// Empty for no errors. (kubectl, `pkg/cmd/util`: `StandardErrorMessage`, `MultilineError`, `statusCausesToAggrError`.)
pub fn invalid_object(kind: &str, name: &str, errors: &[FieldError]) -> String {
    let mut seen = BTreeSet::new();
    let lines: Vec<_> = errors.iter().map(FieldError::to_string).filter(|line| seen.insert(line.clone())).collect();
    let head = format!("The {kind} {} is invalid: ", GoQuoted(name));
    match lines.as_slice() {
        [] => String::new(),
        [line] => head + line,
        lines => format!("{head}\n* {}", lines.join("\n* ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_each_type_as_the_api_server_does() {
        let path = Path::new("spec").child("volumes").index(1).child("name");
        assert_eq!(path.required("").to_string(), "spec.volumes[1].name: Required value");
        assert_eq!(path.duplicate("v").to_string(), r#"spec.volumes[1].name: Duplicate value: "v""#);
        assert_eq!(path.not_found("a\nb").to_string(), r#"spec.volumes[1].name: Not found: "a\nb""#);
        assert_eq!(path.invalid(0_i64, "too small").to_string(), "spec.volumes[1].name: Invalid value: 0: too small");
        assert_eq!(path.forbidden("no").to_string(), "spec.volumes[1].name: Forbidden: no");
        assert_eq!(path.too_long(1024).to_string(), "spec.volumes[1].name: Too long: may not be more than 1024 bytes");
        assert_eq!(
            path.not_supported("x", &["A", "B"]).to_string(),
            r#"spec.volumes[1].name: Unsupported value: "x": supported values: "A", "B""#
        );
    }

    #[test]
    fn lists_several_errors_and_each_once() {
        let (a, b) = (Path::new("a").required(""), Path::new("b").required(""));
        assert_eq!(invalid_object("Pod", "x", &[]), "");
        assert_eq!(
            invalid_object("Pod", "x", std::slice::from_ref(&a)),
            r#"The Pod "x" is invalid: a: Required value"#
        );
        let text = invalid_object("Pod", "x", &[a.clone(), b, a]);
        assert_eq!(text, "The Pod \"x\" is invalid: \n* a: Required value\n* b: Required value");
    }
}
