//! The kubelet's records of the images that it pulled, on disk (KEP-2535; `k8s.io/kubelet/config/v1beta1`).
//!
//! Two folders of small JSON files: an intent for each pull under way, and for each pulled image the credentials with
//! which it was pulled. The format is the kubelet's, so that either can take over the other's folder.

use std::collections::BTreeMap;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::hex;
use crate::metav1::Time;

/// The API version that is written (Kubernetes 1.35 and later).
pub const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
/// What else is read: the same fields under the name that Kubernetes 1.33 and 1.34 gave them.
const OLD_API_VERSION: &str = "kubelet.config.k8s.io/v1alpha1";
/// Longest record that is read: far above the 100 secrets of less than 1 KiB at which the kubelet stops adding to one.
pub const MAX_RECORD_BYTES: usize = 1 << 20;

/// A record of a pull that was begun: kept until its outcome is recorded, so that a crash in between is seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImagePullIntent {
    kind: IntentKind,
    api_version: ApiVersion,
    /// The image as the pod wrote it.
    pub image: String,
}

/// A record of an image that was pulled, and of who may use it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImagePulledRecord {
    kind: PulledKind,
    api_version: ApiVersion,
    /// When the record last changed.
    pub last_updated_time: Time,
    /// The image service's reference of the image, by digest.
    pub image_ref: String,
    /// Who may use it, for each name of the image without tag and digest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub credential_mapping: BTreeMap<String, ImagePullCredentials>,
}

/// The credentials with which an image was pulled under one name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImagePullCredentials {
    /// Secrets of pods, sorted by namespace, name and UID.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kubernetes_secrets: Vec<ImagePullSecret>,
    /// Service accounts whose tokens were exchanged for credentials, sorted alike.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kubernetes_service_accounts: Vec<ImagePullServiceAccount>,
    /// Any pod of the node may use it: it was pulled without credentials, or with the node's. The lists are empty then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub node_pods_accessible: bool,
}

/// A secret with which an image was pulled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImagePullSecret {
    /// `metadata.uid` of the secret.
    pub uid: String,
    /// `metadata.namespace` of the secret.
    pub namespace: String,
    /// `metadata.name` of the secret.
    pub name: String,
    /// Hex SHA-256 of the credentials as JSON: equal hashes prove equal rights, whatever the secret is called.
    pub credential_hash: String,
}

/// A service account with whose token an image was pulled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImagePullServiceAccount {
    /// `metadata.uid` of the account.
    pub uid: String,
    /// `metadata.namespace` of the account.
    pub namespace: String,
    /// `metadata.name` of the account.
    pub name: String,
}

/// Why a file is no record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file is longer than any record; none of it was read.
    #[error("pull record is longer than {MAX_RECORD_BYTES} bytes")]
    TooLarge,
    /// The file is not the JSON of a record, or has fields that the record does not have.
    #[error("pull record is malformed")]
    Malformed(#[source] serde_json::Error),
}

/// A record that is a file of its own.
pub trait Record: Serialize + DeserializeOwned {
    /// Reads a file, strictly. Every version of the format that the kubelet has written is taken.
    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(RecordError::TooLarge);
        }
        serde_json::from_slice(bytes).map_err(RecordError::Malformed)
    }

    /// The bytes of the file, as the kubelet ends them: with a newline.
    fn encode(&self) -> Result<Vec<u8>, RecordError> {
        let mut bytes = serde_json::to_vec(self).map_err(RecordError::Malformed)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// The name of the record's file in its folder: `sha256-` and the hash of what it is about.
    fn file_name(&self) -> String;
}

/// The version on disk; the newest is written, whichever was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ApiVersion;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum IntentKind {
    ImagePullIntent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum PulledKind {
    ImagePulledRecord,
}

// === impl ImagePullIntent ===

impl ImagePullIntent {
    /// The intent to pull `image`.
    pub fn new(image: impl Into<String>) -> Self {
        Self { kind: IntentKind::ImagePullIntent, api_version: ApiVersion, image: image.into() }
    }
}

impl Record for ImagePullIntent {
    fn file_name(&self) -> String {
        file_name(&self.image)
    }
}

// === impl ImagePulledRecord ===

impl ImagePulledRecord {
    /// A record that lets nobody use the image without proving a right to it.
    pub fn new(image_ref: impl Into<String>, last_updated_time: Time) -> Self {
        let (kind, api_version) = (PulledKind::ImagePulledRecord, ApiVersion);
        Self { kind, api_version, last_updated_time, image_ref: image_ref.into(), credential_mapping: BTreeMap::new() }
    }
}

impl Record for ImagePulledRecord {
    fn file_name(&self) -> String {
        file_name(&self.image_ref)
    }
}

// === impl ImagePullCredentials ===

impl ImagePullCredentials {
    /// Anybody on the node may use the image.
    pub fn for_all_pods() -> Self {
        Self { node_pods_accessible: true, ..Self::default() }
    }

    /// Puts the lists into the order that they have on disk: by namespace, name and UID.
    pub fn sort(&mut self) {
        self.kubernetes_secrets.sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
        let accounts = &mut self.kubernetes_service_accounts;
        accounts.sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
    }
}

// === impl ApiVersion ===

impl Serialize for ApiVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(API_VERSION)
    }
}

impl<'de> Deserialize<'de> for ApiVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            API_VERSION | OLD_API_VERSION => Ok(Self),
            _ => Err(D::Error::custom("apiVersion is none of a pull record's")),
        }
    }
}

/// The name of the file about `subject`: an image for an intent, an image reference for a pulled record.
///
/// (Kubernetes, `pkg/kubelet/images/pullmanager/fs_pullrecords.go`, `cacheFilename`.)
pub fn file_name(subject: &str) -> String {
    format!("sha256-{}", hex::sha256(subject.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PULLED: &str = concat!(
        r#"{"kind":"ImagePulledRecord","apiVersion":"kubelet.config.k8s.io/v1beta1","#,
        r#""lastUpdatedTime":"2026-01-02T03:04:05Z","imageRef":"r@sha256:00","#,
        r#""credentialMapping":{"r.io/a":{"kubernetesSecrets":[{"uid":"u","namespace":"n","name":"s","credentialHash":"h"}]},"#,
        r#""r.io/b":{"kubernetesServiceAccounts":[{"uid":"u","namespace":"n","name":"a"}]},"r.io/c":{"nodePodsAccessible":true}}}"#,
        "\n"
    );

    #[test]
    fn an_intent_is_as_the_kubelet_writes_it() {
        let intent = ImagePullIntent::new("r.io/a:1");
        let text =
            "{\"kind\":\"ImagePullIntent\",\"apiVersion\":\"kubelet.config.k8s.io/v1beta1\",\"image\":\"r.io/a:1\"}\n";
        assert_eq!(String::from_utf8(intent.encode().unwrap()).unwrap(), text);
        assert_eq!(ImagePullIntent::decode(text.as_bytes()).unwrap(), intent);
    }

    #[test]
    fn a_pulled_record_survives_a_round_trip() {
        let record = ImagePulledRecord::decode(PULLED.as_bytes()).unwrap();
        assert!(record.credential_mapping["r.io/c"].node_pods_accessible);
        assert_eq!(record.credential_mapping["r.io/a"].kubernetes_secrets[0].credential_hash, "h");
        assert_eq!(String::from_utf8(record.encode().unwrap()).unwrap(), PULLED);
        let empty = ImagePulledRecord::new("r@sha256:00", record.last_updated_time);
        assert!(!String::from_utf8(empty.encode().unwrap()).unwrap().contains("credentialMapping"));
    }

    #[test]
    fn reads_the_old_version_and_writes_the_new() {
        let old = PULLED.replace("v1beta1", "v1alpha1");
        let record = ImagePulledRecord::decode(old.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(record.encode().unwrap()).unwrap(), PULLED);
    }

    #[test]
    fn refuses_what_is_no_record() {
        for (from, to) in [
            ("v1beta1", "v2"),
            ("ImagePulledRecord", "ImagePullIntent"),
            ("\"imageRef\"", "\"extra\":1,\"imageRef\""),
            ("\"uid\"", "\"UID\""),
            ("2026", "last year"),
        ] {
            assert!(ImagePulledRecord::decode(PULLED.replace(from, to).as_bytes()).is_err(), "{to}");
        }
        assert!(matches!(ImagePullIntent::decode(&vec![b' '; MAX_RECORD_BYTES + 1]), Err(RecordError::TooLarge)));
    }

    #[test]
    fn files_are_named_by_hash() {
        // printf busybox | sha256sum
        let name = "sha256-9d75f0d7c398df565d7ac04c6819b62d6d8f9560f5eb4672596ecd8f7e96ae91";
        assert_eq!(ImagePullIntent::new("busybox").file_name(), name);
    }

    #[test]
    fn credentials_are_sorted_by_coordinates() {
        let secret = |namespace: &str, name: &str| ImagePullSecret {
            uid: "u".to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            credential_hash: String::new(),
        };
        let mut credentials = ImagePullCredentials {
            kubernetes_secrets: vec![secret("b", "a"), secret("a", "z"), secret("a", "b")],
            ..ImagePullCredentials::default()
        };
        credentials.sort();
        assert_eq!(credentials.kubernetes_secrets, [secret("a", "b"), secret("a", "z"), secret("b", "a")]);
    }
}
