//! Why a request to the API server failed, in our own words.

use std::error::Error;
use std::time::Duration;

use kube::client::AuthError;
use kube::core::Status;

use super::access::plugin_problem;
use crate::text::one_line;

/// Bytes of a server's text that are shown: more than any of Kubernetes' own, less than the page of a proxy.
const MAX_MESSAGE: usize = 1024;
/// The cause with which creation in a namespace that is going away is refused (k8s.io/api/core/v1, `NamespaceTerminatingCause`).
const NAMESPACE_TERMINATING: &str = "NamespaceTerminating";

/// What was asked, and why it failed. Its text holds no secret.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {object}")]
pub struct RequestError {
    /// As RBAC has it: `get`, `list`, ...
    pub verb: &'static str,
    /// Resource, and the object's namespace and name.
    pub object: String,
    /// Why it failed.
    pub source: RequestFault,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum RequestFault {
    /// A name that no object can have: nothing was sent.
    #[error("{name:?} is no name of an object")]
    Name {
        /// The name as it was given.
        name: String,
    },
    /// The request could not be built: nothing was sent.
    #[error("the request cannot be built")]
    Build(#[source] Box<dyn Error + Send + Sync>),
    /// 404.
    #[error("it does not exist")]
    NotFound,
    /// 401: the credentials are not, or no longer, good.
    #[error("the API server does not accept the credentials")]
    Unauthorized,
    /// 403.
    #[error("forbidden: {message}")]
    Forbidden {
        /// The server's words.
        message: String,
    },
    /// Nothing can be created in the namespace any more.
    #[error("its namespace is being terminated")]
    NamespaceTerminating,
    /// 409 on creation.
    #[error("it exists already")]
    AlreadyExists,
    /// 409 on change: somebody else was faster.
    #[error("it has been changed by somebody else")]
    Conflict,
    /// 410: what the request builds on is forgotten.
    #[error("the resource version is too old")]
    Expired,
    /// Any other 4xx: the request itself is not liked.
    #[error("the API server answered {code}: {message}")]
    Refused {
        /// HTTP code.
        code: u16,
        /// The server's words.
        message: String,
    },
    /// 429 or 5xx: not now.
    #[error("the API server answered {code}: {message}")]
    Failing {
        /// HTTP code.
        code: u16,
        /// The server's words.
        message: String,
    },
    /// No answer, or not all of it.
    #[error("the API server cannot be reached")]
    Unreachable(#[source] Box<dyn Error + Send + Sync>),
    /// No answer in time.
    #[error("the API server did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// There are no credentials to show at present.
    #[error("there are no credentials for the API server: {problem}")]
    Credentials {
        /// What went wrong, without what a program printed.
        problem: String,
    },
    /// The answer is not what it should be. What it is is not said: it may be a secret.
    #[error("the answer of the API server cannot be understood")]
    Undecodable,
}

// === impl RequestError ===

impl RequestError {
    /// Whether the same request may succeed later, without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        self.source.is_retryable()
    }

    /// The HTTP code that the server answered with, if it did.
    pub fn code(&self) -> Option<u16> {
        self.source.code()
    }
}

// === impl RequestFault ===

impl RequestFault {
    /// Whether the same request may succeed later, without anybody changing anything. Credentials are renewed in the background.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unauthorized
            | Self::Conflict
            | Self::Expired
            | Self::Failing { .. }
            | Self::Unreachable(_)
            | Self::Timeout(_)
            | Self::Credentials { .. } => true,
            Self::Name { .. }
            | Self::Build(_)
            | Self::NotFound
            | Self::Forbidden { .. }
            | Self::NamespaceTerminating
            | Self::AlreadyExists
            | Self::Refused { .. }
            | Self::Undecodable => false,
        }
    }

    /// Whether it says nothing of the request, but only that the server is away.
    pub(super) fn is_outage(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(_)
                | Self::Timeout(_)
                | Self::Credentials { .. }
                | Self::Unauthorized
                | Self::Failing { code: 500.., .. }
        )
    }

    /// The HTTP code that the server answered with, if it did.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::NotFound => Some(404),
            Self::Unauthorized => Some(401),
            Self::Forbidden { .. } | Self::NamespaceTerminating => Some(403),
            Self::AlreadyExists | Self::Conflict => Some(409),
            Self::Expired => Some(410),
            Self::Refused { code, .. } | Self::Failing { code, .. } => Some(*code),
            Self::Name { .. }
            | Self::Build(_)
            | Self::Unreachable(_)
            | Self::Timeout(_)
            | Self::Credentials { .. }
            | Self::Undecodable => None,
        }
    }

    /// What a `metav1.Status` means, told by its reason, or by its code where somebody else than the API server answered.
    pub(super) fn of_status(status: &Status) -> Self {
        let message = || one_line(&status.message, MAX_MESSAGE);
        match (status.code, status.reason.as_str()) {
            (_, "AlreadyExists") => Self::AlreadyExists,
            (_, "Expired" | "Gone") | (410, _) => Self::Expired,
            (401, _) => Self::Unauthorized,
            (403, _) if is_terminating(status) => Self::NamespaceTerminating,
            (403, _) => Self::Forbidden { message: message() },
            (404, _) => Self::NotFound,
            (409, _) => Self::Conflict,
            (code @ (429 | 500..), _) => Self::Failing { code, message: message() },
            (code, _) => Self::Refused { code, message: message() },
        }
    }
}

impl From<kube::Error> for RequestFault {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "another crate's enum: what is left means that bytes did not come through"
    )]
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_status(&status),
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) | kube::Error::LinesCodecMaxLineLengthExceeded => {
                Self::Undecodable
            }
            kube::Error::BuildRequest(error) => Self::Build(error.into()),
            kube::Error::HttpError(error) => Self::Build(error.into()),
            kube::Error::Auth(error) => Self::Credentials { problem: plugin_problem(&error) },
            kube::Error::Service(error) => Self::of_transport(error),
            other => Self::Unreachable(other.into()),
        }
    }
}

impl RequestFault {
    /// A request fails on its way also where a program for credentials does.
    fn of_transport(error: Box<dyn Error + Send + Sync>) -> Self {
        match error.downcast::<AuthError>() {
            Ok(error) => Self::Credentials { problem: plugin_problem(&error) },
            Err(error) => Self::Unreachable(error),
        }
    }
}

fn is_terminating(status: &Status) -> bool {
    status.details.iter().flat_map(|details| &details.causes).any(|cause| cause.reason == NAMESPACE_TERMINATING)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case::not_found(json!({"code": 404, "reason": "NotFound"}), "it does not exist", false)]
    #[case::of_a_proxy(json!({"code": 404}), "it does not exist", false)]
    #[case::unauthorized(json!({"code": 401, "reason": "Unauthorized"}), "the API server does not accept the credentials", true)]
    #[case::forbidden(json!({"code": 403, "message": "no"}), "forbidden: no", false)]
    #[case::terminating(
        json!({"code": 403, "reason": "Forbidden", "details": {"causes": [{"reason": "NamespaceTerminating"}]}}),
        "its namespace is being terminated", false
    )]
    #[case::exists(json!({"code": 409, "reason": "AlreadyExists"}), "it exists already", false)]
    #[case::conflict(json!({"code": 409, "reason": "Conflict"}), "it has been changed by somebody else", true)]
    #[case::expired(json!({"code": 410, "reason": "Expired"}), "the resource version is too old", true)]
    #[case::gone_in_a_watch(json!({"code": 410, "reason": "Gone"}), "the resource version is too old", true)]
    #[case::invalid(json!({"code": 422, "message": "a\nb"}), "the API server answered 422: a\\nb", false)]
    #[case::busy(json!({"code": 429, "message": "later"}), "the API server answered 429: later", true)]
    #[case::broken(json!({"code": 503, "message": "away"}), "the API server answered 503: away", true)]
    fn tells_what_a_status_means(#[case] status: serde_json::Value, #[case] text: &str, #[case] retryable: bool) {
        let status: Status = serde_json::from_value(status).unwrap();
        let fault = RequestFault::of_status(&status);
        assert_eq!((fault.to_string().as_str(), fault.is_retryable()), (text, retryable));
        assert_eq!(fault.code(), Some(status.code));
    }

    #[test]
    fn never_quotes_what_a_credential_program_printed() {
        use std::os::unix::process::ExitStatusExt as _;
        let out = std::process::Output {
            status: std::process::ExitStatus::from_raw(256),
            stdout: b"s3cret".to_vec(),
            stderr: b"s3cret".to_vec(),
        };
        let error = AuthError::AuthExecRun { cmd: "get-token".into(), out: Box::new(out) };
        let fault = RequestFault::from(kube::Error::Service(Box::new(error)));
        let text = format!("{fault} {fault:?}");
        assert!(!text.contains("s3cret"), "{text}");
        assert!(text.contains("get-token"), "{text}");
    }

    #[test]
    fn never_quotes_what_could_not_be_decoded() {
        let error = serde_json::from_str::<Vec<String>>(r#"{"password": "s3cret"}"#).unwrap_err();
        let fault = RequestFault::from(kube::Error::SerdeError(error));
        assert!(!format!("{fault} {fault:?}").contains("s3cret"));
    }
}
