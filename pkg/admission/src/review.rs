//! `AdmissionReview` (admission.k8s.io/v1): what the API server asks, and what it is answered. Pure.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::template::GroupVersionKind;
use crate::translate::{Request, Scope, TranslateError, Translation, Verb, translate};

/// The one version that exists since Kubernetes 1.22.
const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
/// HTTP's code for an object that is understood and invalid, which the API server's own validation answers too
/// (apimachinery, `errors.NewInvalid`).
const UNPROCESSABLE: u16 = 422;
/// A request that is no such object at all.
const BAD_REQUEST: u16 = 400;

/// A body that is no question, so that it cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// It is not JSON, or not of this shape.
    #[error("the body is no AdmissionReview")]
    Decode(#[source] serde_json::Error),
    /// It is of another API or version.
    #[error("{api_version:?}, kind {kind:?}, is not {API_VERSION}, kind {KIND}")]
    Version {
        /// What it says it is.
        api_version: String,
        /// What it says it is.
        kind: String,
    },
    /// There is no question in it.
    #[error("the AdmissionReview has no request")]
    NoRequest,
    /// The answer cannot be written.
    #[error("cannot write the answer")]
    Encode(#[source] serde_json::Error),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Question {
    api_version: String,
    kind: String,
    request: Option<AdmissionRequest>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AdmissionRequest {
    uid: String,
    kind: GroupVersionKind,
    operation: Verb,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    object: Value,
    #[serde(default)]
    old_object: Value,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    api_version: &'static str,
    kind: &'static str,
    response: AdmissionResponse,
}

#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct AdmissionResponse {
    uid: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    audit_annotations: BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
struct Status {
    code: u16,
    reason: &'static str,
    message: String,
}

/// Answers the body of a request to the webhook with the body of its answer.
pub fn answer(body: &[u8], scope: Scope) -> Result<Vec<u8>, ReviewError> {
    let request = parse(body)?;
    let question = Request {
        kind: &request.kind,
        verb: request.operation,
        object: &request.object,
        old_object: Some(&request.old_object).filter(|object| !object.is_null()),
        scope,
    };
    let translated = translate(&question);
    tell(&request, &translated);
    let response = match translated {
        Ok(translation) => AdmissionResponse::allowed(request.uid, translation)?,
        Err(error) => AdmissionResponse::refused(request.uid, &error),
    };
    let answer = Answer { api_version: API_VERSION, kind: KIND, response };
    serde_json::to_vec(&answer).map_err(ReviewError::Encode)
}

fn parse(body: &[u8]) -> Result<AdmissionRequest, ReviewError> {
    let Question { api_version, kind, request } = serde_json::from_slice(body).map_err(ReviewError::Decode)?;
    if api_version != API_VERSION || kind != KIND {
        return Err(ReviewError::Version { api_version, kind });
    }
    request.ok_or(ReviewError::NoRequest)
}

fn tell(request: &AdmissionRequest, translated: &Result<Translation, TranslateError>) {
    let (kind, namespace, name) = (&request.kind.kind, &request.namespace, &request.name);
    match translated {
        Ok(translation) => tracing::debug!(?kind, ?namespace, ?name, volumes = ?translation.volumes, "reviewed"),
        Err(error) => tracing::info!(?kind, ?namespace, ?name, %error, "refused"),
    }
}

// === impl AdmissionResponse ===

impl AdmissionResponse {
    fn allowed(uid: String, translation: Translation) -> Result<Self, ReviewError> {
        let mut response = Self { uid, allowed: true, warnings: translation.warnings, ..Self::default() };
        if !translation.patch.is_empty() {
            let patch = serde_json::to_vec(&translation.patch).map_err(ReviewError::Encode)?;
            response.patch = Some(STANDARD.encode(patch));
            response.patch_type = Some("JSONPatch");
        }
        if !translation.volumes.is_empty() {
            response.audit_annotations.insert("translated", translation.volumes.join(","));
        }
        Ok(response)
    }

    fn refused(uid: String, error: &TranslateError) -> Self {
        let (code, reason) = match error {
            TranslateError::Invalid { .. } => (UNPROCESSABLE, "Invalid"),
            TranslateError::Malformed(_) => (BAD_REQUEST, "BadRequest"),
        };
        Self { uid, status: Some(Status { code, reason, message: error.to_string() }), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn question(object: &Value) -> Value {
        json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "u-1", "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "resource": {"group": "", "version": "v1", "resource": "pods"}, "operation": "CREATE",
                "namespace": "n", "userInfo": {"username": "x"}, "object": object, "oldObject": null, "dryRun": true,
            },
        })
    }

    fn response(object: &Value) -> Value {
        let body = question(object).to_string();
        let answer: Value = serde_json::from_slice(&answer(body.as_bytes(), Scope::Namespace).unwrap()).unwrap();
        assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
        assert_eq!(answer["kind"], "AdmissionReview");
        answer["response"].clone()
    }

    #[test]
    fn answers_with_a_patch() {
        let object =
            json!({"spec": {"volumes": [{"name": "v", "image": {"reference": "r:1", "pullPolicy": "Never"}}]}});
        let response = response(&object);
        assert_eq!(response["uid"], "u-1");
        assert_eq!(response["allowed"], true);
        assert_eq!(response["patchType"], "JSONPatch");
        assert_eq!(response["auditAnnotations"], json!({"translated": "v"}));
        let patch: Value =
            serde_json::from_slice(&STANDARD.decode(response["patch"].as_str().unwrap()).unwrap()).unwrap();
        let csi = json!({
            "driver": "csi.imagevol.dev", "readOnly": true,
            "volumeAttributes": {"reference": "r:1", "pullPolicy": "Never"},
        });
        assert_eq!(patch[0], json!({"op": "replace", "path": "/spec/volumes/0", "value": {"name": "v", "csi": csi}}));
        assert_eq!(patch[1]["op"], "add");
    }

    #[test]
    fn answers_without_a_patch_where_nothing_is_to_be_done() {
        assert_eq!(response(&json!({"spec": {}})), json!({"uid": "u-1", "allowed": true}));
    }

    #[test]
    fn refuses_with_the_reason() {
        let response = response(&json!({"spec": {"volumes": [{"name": "v", "image": {}}]}}));
        let message = "spec.volumes[0].image.reference: Required value";
        let status = json!({"code": 422, "reason": "Invalid", "message": message});
        assert_eq!(response, json!({"uid": "u-1", "allowed": false, "status": status}));
    }

    #[test]
    fn warns_of_what_decides_nothing() {
        let object = json!({"metadata": {"annotations": {"imagevol.dev/translate": "on"}}, "spec": {}});
        let warning = "annotation imagevol.dev/translate: \"on\" is neither \"true\" nor \"false\" and decides nothing";
        assert_eq!(response(&object), json!({"uid": "u-1", "allowed": true, "warnings": [warning]}));
    }

    #[rstest]
    #[case::no_json("no", "the body is no AdmissionReview")]
    #[case::no_review("[]", "the body is no AdmissionReview")]
    #[case::old(
        r#"{"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview"}"#,
        r#""admission.k8s.io/v1beta1", kind "AdmissionReview", is not admission.k8s.io/v1, kind AdmissionReview"#
    )]
    #[case::an_answer(
        r#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}"#,
        "the AdmissionReview has no request"
    )]
    fn bodies_that_are_no_question_are_errors(#[case] body: &str, #[case] expected: &str) {
        assert_eq!(answer(body.as_bytes(), Scope::Namespace).unwrap_err().to_string(), expected);
    }

    #[test]
    fn deep_nesting_is_an_error_and_no_crash() {
        let object = "[".repeat(100_000);
        assert!(matches!(answer(object.as_bytes(), Scope::Namespace), Err(ReviewError::Decode(_))));
    }
}
