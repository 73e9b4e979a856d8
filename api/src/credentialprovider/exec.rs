//! What is said to a plugin and by it (`k8s.io/kubelet/pkg/apis/credentialprovider`).

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::{Deserialize, Deserializer, Serialize};

use super::ProviderApiVersion;
use crate::auth::AuthConfig;
use crate::duration::{Duration, DurationError};

/// The plugin's standard input.
#[derive(Debug, Clone)]
pub struct CredentialProviderRequest {
    /// In which version it is said.
    pub api_version: ProviderApiVersion,
    /// The image, without tag and digest.
    pub image: String,
    /// A token of the pod's service account, where the plugin wants one.
    pub service_account_token: Option<SecretString>,
    /// The annotations of the service account that the plugin wants.
    pub service_account_annotations: BTreeMap<String, String>,
}

/// The plugin's standard output.
#[derive(Debug, Clone)]
pub struct CredentialProviderResponse {
    /// For which images the answer holds.
    pub cache_key_type: CacheKeyType,
    /// For how long; `None` where the configuration says it, zero for this time alone.
    pub cache_duration: Option<std::time::Duration>,
    /// Credentials, by the images that they are for: `host[:port][/path]` with wildcards.
    pub auth: BTreeMap<String, AuthConfig>,
}

/// For which images an answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CacheKeyType {
    /// For the one that was asked for.
    Image,
    /// For all of its registry.
    Registry,
    /// For all that the plugin is asked for.
    Global,
}

/// Why an answer is not used. Nothing of it is shown: it may hold credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// It is no JSON object with a type.
    #[error("the response is no JSON object")]
    NotJson,
    /// It is of another version than the request.
    #[error("the response is not of apiVersion {expected}")]
    ApiVersion {
        /// What was asked with.
        expected: ProviderApiVersion,
    },
    /// It is something else.
    #[error("the response is no CredentialProviderResponse")]
    Kind,
    /// It does not have the fields of a response, or others too.
    #[error("the response is malformed at line {line} column {column}")]
    Malformed {
        /// Where, from 1.
        line: usize,
        /// Where, from 1.
        column: usize,
    },
    /// It does not say for which images it holds.
    #[error("the response has no valid cacheKeyType")]
    CacheKeyType,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RawRequest<'a> {
    kind: &'static str,
    api_version: &'static str,
    image: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_account_token: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    service_account_annotations: &'a BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct TypeMeta {
    api_version: String,
    kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawResponse {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default)]
    cache_key_type: Option<String>,
    #[serde(default, deserialize_with = "duration")]
    cache_duration: Option<std::time::Duration>,
    #[serde(default)]
    auth: Option<BTreeMap<String, RawAuth>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawAuth {
    username: Option<String>,
    password: Option<String>,
}

// === impl CredentialProviderRequest ===

impl CredentialProviderRequest {
    /// The bytes for the plugin, with a final newline as the kubelet's.
    pub fn encode(&self) -> Result<SecretSlice<u8>, serde_json::Error> {
        let raw = RawRequest {
            kind: "CredentialProviderRequest",
            api_version: self.api_version.as_str(),
            image: &self.image,
            service_account_token: self.service_account_token.as_ref().map(ExposeSecret::expose_secret),
            service_account_annotations: &self.service_account_annotations,
        };
        let mut bytes = serde_json::to_vec(&raw)?;
        bytes.push(b'\n');
        Ok(bytes.into())
    }
}

// === impl CredentialProviderResponse ===

impl CredentialProviderResponse {
    /// Reads the plugin's answer to a request of `version`, strictly.
    pub fn decode(bytes: &[u8], version: ProviderApiVersion) -> Result<Self, ResponseError> {
        let TypeMeta { api_version, kind } = serde_json::from_slice(bytes).map_err(|_| ResponseError::NotJson)?;
        if ProviderApiVersion::of(&api_version) != Some(version) {
            return Err(ResponseError::ApiVersion { expected: version });
        }
        if kind != "CredentialProviderResponse" {
            return Err(ResponseError::Kind);
        }
        let malformed =
            |error: serde_json::Error| ResponseError::Malformed { line: error.line(), column: error.column() };
        let raw: RawResponse = serde_json::from_slice(bytes).map_err(malformed)?;
        let cache_key_type =
            raw.cache_key_type.as_deref().and_then(CacheKeyType::of).ok_or(ResponseError::CacheKeyType)?;
        let auth = raw.auth.unwrap_or_default().into_iter().map(|(image, raw)| (image, raw.read())).collect();
        Ok(Self { cache_key_type, cache_duration: raw.cache_duration, auth })
    }
}

// === impl CacheKeyType ===

impl CacheKeyType {
    fn of(text: &str) -> Option<Self> {
        match text {
            "Image" => Some(Self::Image),
            "Registry" => Some(Self::Registry),
            "Global" => Some(Self::Global),
            _ => None,
        }
    }
}

// === impl RawAuth ===

impl RawAuth {
    fn read(self) -> AuthConfig {
        AuthConfig {
            username: self.username.unwrap_or_default(),
            password: self.password.unwrap_or_default().into(),
            ..AuthConfig::default()
        }
    }
}

/// What is below zero has run out before it came: it is not kept.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<std::time::Duration>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    let parsed = text.map(|text| match text.parse::<Duration>() {
        Ok(duration) => Ok(duration.get()),
        Err(DurationError::Negative(_)) => Ok(std::time::Duration::ZERO),
        Err(error) => Err(serde::de::Error::custom(error)),
    });
    parsed.transpose()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const V1: ProviderApiVersion = ProviderApiVersion::V1;

    fn request(token: Option<&str>) -> CredentialProviderRequest {
        let annotations = token.map(|_| ("a.io/role".to_owned(), "reader".to_owned()));
        CredentialProviderRequest {
            api_version: V1,
            image: "r.io/team/app".to_owned(),
            service_account_token: token.map(Into::into),
            service_account_annotations: annotations.into_iter().collect(),
        }
    }

    fn response(rest: &str) -> String {
        format!(r#"{{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1",{rest}}}"#)
    }

    fn decode(text: &str) -> Result<CredentialProviderResponse, ResponseError> {
        CredentialProviderResponse::decode(text.as_bytes(), V1)
    }

    #[rstest]
    #[case(None, "")]
    #[case(Some("t0ken"), r#","serviceAccountToken":"t0ken","serviceAccountAnnotations":{"a.io/role":"reader"}"#)]
    fn asks_as_the_kubelet_does(#[case] token: Option<&str>, #[case] rest: &str) {
        let head = r#""kind":"CredentialProviderRequest","apiVersion":"credentialprovider.kubelet.k8s.io/v1""#;
        let expected = format!("{{{head},\"image\":\"r.io/team/app\"{rest}}}\n");
        let bytes = request(token).encode().unwrap();
        assert_eq!(String::from_utf8(bytes.expose_secret().to_vec()).unwrap(), expected);
        assert!(!format!("{:?}", request(token)).contains("t0ken"));
    }

    #[test]
    fn reads_an_answer() {
        let text = response(
            r#""cacheKeyType":"Registry","cacheDuration":"5m0s","auth":{"*.r.io":{"username":"u","password":"hunter2"},"q.io":{"username":"v"}}"#,
        );
        let answer = decode(&text).unwrap();
        assert_eq!(answer.cache_key_type, CacheKeyType::Registry);
        assert_eq!(answer.cache_duration, Some(std::time::Duration::from_mins(5)));
        assert_eq!(answer.auth["*.r.io"].password.expose_secret(), "hunter2");
        assert_eq!(answer.auth["q.io"].password.expose_secret(), "");
        assert!(!format!("{answer:?}").contains("hunter2"));
    }

    #[rstest]
    #[case(r#""cacheKeyType":"Image""#, None)]
    #[case(r#""cacheKeyType":"Image","cacheDuration":null,"auth":null"#, None)]
    #[case(r#""cacheKeyType":"Image","cacheDuration":"0s""#, Some(0))]
    #[case(r#""cacheKeyType":"Image","cacheDuration":"-5s""#, Some(0))]
    #[case(r#""cacheKeyType":"Image","cacheDuration":"10m""#, Some(600))]
    fn reads_how_long_it_holds(#[case] rest: &str, #[case] seconds: Option<u64>) {
        let answer = decode(&response(rest)).unwrap();
        assert_eq!(answer.cache_duration, seconds.map(std::time::Duration::from_secs));
        assert!(answer.auth.is_empty());
    }

    #[rstest]
    #[case::empty("", ResponseError::NotJson)]
    #[case::text("hunter2", ResponseError::NotJson)]
    #[case::two(r#"{"kind":"a"}{"kind":"b"}"#, ResponseError::NotJson)]
    #[case::no_version(r#"{"kind":"CredentialProviderResponse"}"#, ResponseError::ApiVersion { expected: V1 })]
    #[case::other_version(&response(r#""cacheKeyType":"Image""#).replace("/v1", "/v1beta1"), ResponseError::ApiVersion { expected: V1 })]
    #[case::other_kind(&response(r#""cacheKeyType":"Image""#).replace("Response", "Request"), ResponseError::Kind)]
    #[case::no_key(&response(r#""auth":{}"#), ResponseError::CacheKeyType)]
    #[case::other_key(&response(r#""cacheKeyType":"hunter2""#), ResponseError::CacheKeyType)]
    #[case::unknown_field(&response(r#""cacheKeyType":"Image","hunter2":1"#), ResponseError::Malformed { line: 1, column: 130 })]
    #[case::wrong_duration(&response(r#""cacheKeyType":"Image","cacheDuration":"hunter2""#), ResponseError::Malformed { line: 1, column: 147 })]
    fn refuses_other_answers_without_a_word_of_them(#[case] text: &str, #[case] error: ResponseError) {
        let refused = decode(text).unwrap_err();
        assert_eq!(std::mem::discriminant(&refused), std::mem::discriminant(&error), "{refused:?}");
        assert!(!format!("{refused} {refused:?}").contains("hunter2"));
    }
}
