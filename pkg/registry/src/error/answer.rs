//! An answer that says no, and what was asked for.

use std::fmt;
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use imagevol_api::oci::Digest;

use super::RegistryError;
use crate::text::shown;

/// What a request was about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The repository on the registry.
    pub repository: String,
    /// What of it.
    pub subject: Subject,
}

/// What of a repository was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The manifest of a tag.
    Tag(String),
    /// A manifest.
    Manifest(Digest),
    /// A layer, config or other blob.
    Blob(Digest),
    /// The list of tags.
    Tags,
    /// The manifests that refer to this one.
    Referrers(Digest),
    /// A token to read it.
    Token,
}

/// An HTTP answer that says no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The host that answered: the registry, its token service or where it redirected to.
    pub registry: String,
    /// HTTP status.
    pub status: u16,
    /// The error code of the distribution spec, such as `MANIFEST_UNKNOWN`, fit to be shown.
    pub code: Option<String>,
    /// The error's message, fit to be shown.
    pub message: Option<String>,
    /// What was asked for.
    pub asked: Asked,
}

/// An error body (distribution spec, "Error Codes"); token services use the same or OAuth2's form.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Envelope {
    errors: Vec<Entry>,
    error: Option<serde_json::Value>,
    error_description: Option<String>,
    details: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    code: Option<serde_json::Value>,
    message: Option<serde_json::Value>,
}

// === impl Asked ===

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "repository {:?}, ", self.repository)?;
        match &self.subject {
            Subject::Tag(tag) => write!(f, "tag {tag:?}"),
            Subject::Manifest(digest) => write!(f, "manifest {digest}"),
            Subject::Blob(digest) => write!(f, "blob {digest}"),
            Subject::Tags => f.write_str("list of tags"),
            Subject::Referrers(digest) => write!(f, "referrers of {digest}"),
            Subject::Token => f.write_str("token"),
        }
    }
}

// === impl Answer ===

impl Answer {
    /// Reads the first error of a body, which may be cut, no JSON, or hostile; `secrets` are not repeated.
    pub(crate) fn new(registry: &str, status: StatusCode, body: &[u8], asked: Asked, secrets: &[String]) -> Self {
        let (code, message) = first_error(body);
        let fit = |text: Option<String>| text.filter(|text| !text.is_empty()).map(|text| shown(&text, secrets));
        Self { registry: registry.to_owned(), status: status.as_u16(), code: fit(code), message: fit(message), asked }
    }

    /// The error that the status means when the registry itself answers.
    pub(crate) fn into_error(self: Box<Self>, headers: &HeaderMap) -> RegistryError {
        match self.status {
            401 => RegistryError::Unauthorized(self),
            403 => RegistryError::Denied(self),
            404 => RegistryError::NotFound(self),
            // 407 is a proxy's: it says nothing about the image.
            407 | 408 | 500..=599 => RegistryError::Unavailable(self),
            429 => RegistryError::Throttled { retry_after: retry_after(headers), answer: self },
            _ => RegistryError::Refused(self),
        }
    }

    fn reason(&self) -> String {
        let code = self.code.as_ref().map(|code| code.to_ascii_lowercase().replace('_', " "));
        match (code, &self.message) {
            (Some(code), Some(message)) if code != message.to_ascii_lowercase() => format!("{code}: {message}"),
            (_, Some(message)) => message.clone(),
            (Some(code), None) => code,
            (None, None) => match self.status {
                300..=399 => "unexpected redirect".to_owned(),
                429 => "too many requests".to_owned(),
                500..=599 => "server error".to_owned(),
                _ => "request refused".to_owned(),
            },
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = StatusCode::from_u16(self.status).ok().and_then(|status| status.canonical_reason());
        let space = if name.is_some() { " " } else { "" };
        let (status, name) = (self.status, name.unwrap_or_default());
        write!(f, "registry {}: {} ({status}{space}{name}): {}", self.registry, self.reason(), self.asked)
    }
}

fn first_error(body: &[u8]) -> (Option<String>, Option<String>) {
    let Ok(envelope) = serde_json::from_slice::<Envelope>(body) else { return (None, None) };
    let text = |value: Option<serde_json::Value>| value.and_then(|value| value.as_str().map(str::to_owned));
    if let Some(first) = envelope.errors.into_iter().next() {
        return (text(first.code), text(first.message));
    }
    (text(envelope.error), envelope.error_description.or(envelope.details))
}

/// Seconds or, rarely, a date (RFC 9110, section 10.2.3). A date is no duration without a clock that both share: it says nothing here.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn asked() -> Asked {
        Asked { repository: "data".to_owned(), subject: Subject::Tag("x".to_owned()) }
    }

    fn text(status: u16, body: &str) -> String {
        Answer::new("localhost:5000", StatusCode::from_u16(status).unwrap(), body.as_bytes(), asked(), &[]).to_string()
    }

    #[rstest]
    #[case(
        404,
        r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
        "manifest unknown (404 Not Found)"
    )]
    #[case(
        403,
        r#"{"errors":[{"code":"DENIED","message":"access is denied"}]}"#,
        "denied: access is denied (403 Forbidden)"
    )]
    #[case(401, r#"{"error":"invalid_grant","error_description":"bad"}"#, "invalid grant: bad (401 Unauthorized)")]
    #[case(401, r#"{"details":"incorrect username or password"}"#, "incorrect username or password (401 Unauthorized)")]
    #[case(503, "<html>", "server error (503 Service Unavailable)")]
    #[case(429, "", "too many requests (429 Too Many Requests)")]
    #[case(404, r#"{"errors":[{"code":7,"message":{"x":1}}]}"#, "request refused (404 Not Found)")]
    #[case(599, "", "server error (599)")]
    fn says_who_what_and_why(#[case] status: u16, #[case] body: &str, #[case] expected: &str) {
        let expected = format!("registry localhost:5000: {expected}: repository \"data\", tag \"x\"");
        assert_eq!(text(status, body), expected);
    }

    #[test]
    fn a_registry_cannot_paint_on_our_terminal() {
        let body = "{\"errors\":[{\"code\":\"X\",\"message\":\"\\u001b[2J\\nRegistryUnavailable\"}]}";
        assert!(text(404, body).contains("x: \\u{1b}[2J\\nRegistryUnavailable"));
    }

    #[rstest]
    #[case("17", Some(17))]
    #[case("0", Some(0))]
    #[case("99999999999", Some(99_999_999_999))]
    #[case("-1", None)]
    #[case("Wed, 21 Oct 2015 07:28:00 GMT", None)]
    #[case("999999999999999999999999", None)]
    fn reads_retry_after(#[case] value: &'static str, #[case] seconds: Option<u64>) {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static(value));
        assert_eq!(retry_after(&headers), seconds.map(Duration::from_secs));
    }

    proptest! {
        #[test]
        fn any_body_gives_one_line(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let answer = Answer::new("r", StatusCode::NOT_FOUND, &body, asked(), &[]);
            prop_assert!(!answer.to_string().contains('\n'));
        }
    }
}
