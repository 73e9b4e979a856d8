//! Docker configuration files as pull secrets and nodes have them (Kubernetes, `pkg/credentialprovider/config.go`).
//!
//! A pull secret is written by a tenant: `credsStore` and `credHelpers`, which name programs to run, are not even read.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use imagevol_api::auth::AuthConfig;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// As lenient as Go's decoders, which the kubelet chooses between by looking for the padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Credentials by registry, as written.
#[derive(Debug, Clone, Default)]
pub struct DockerConfig {
    pub(super) entries: BTreeMap<String, Entry>,
}

/// Credentials for one registry.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    /// What the registry is shown.
    pub auth: AuthConfig,
    /// An address that nothing uses any more, but that counts into the credential's hash.
    pub email: String,
}

/// Why bytes are no docker configuration. Says where, never what is there: it may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DockerConfigError {
    /// Not JSON, or not of the form.
    #[error("not a docker configuration: {kind} at line {line} column {column}")]
    Form {
        /// What is wrong.
        kind: FormError,
        /// Where, from 1.
        line: usize,
        /// Where, from 1.
        column: usize,
    },
    /// An entry's `auth` is not base64 of `user:password`.
    #[error("unable to parse auth field, must be formatted as base64(username:password)")]
    Auth,
}

/// What is wrong with the form of a docker configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormError {
    /// It is not JSON.
    Syntax,
    /// It is JSON of another shape.
    Shape,
    /// It ends too early.
    End,
}

// Both name the fields that nobody reads, because serde then refuses an array in place of an object.

#[derive(Deserialize)]
struct ConfigFile {
    #[serde(default)]
    auths: Option<BTreeMap<String, Option<RawEntry>>>,
    #[serde(flatten)]
    _others: IgnoredAny,
}

#[derive(Default, Deserialize)]
struct RawEntry {
    username: Option<String>,
    password: Option<String>,
    email: Option<String>,
    auth: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
    #[serde(flatten)]
    _others: IgnoredAny,
}

// === impl DockerConfig ===

impl DockerConfig {
    /// Reads `config.json`, which is also the content of a `kubernetes.io/dockerconfigjson` secret.
    pub fn from_config_json(bytes: &[u8]) -> Result<Self, DockerConfigError> {
        let file: ConfigFile = serde_json::from_slice(bytes).map_err(|error| DockerConfigError::of(&error))?;
        Self::new(file.auths.unwrap_or_default())
    }

    /// Reads the older `.dockercfg`, which is also the content of a `kubernetes.io/dockercfg` secret.
    pub fn from_dockercfg(bytes: &[u8]) -> Result<Self, DockerConfigError> {
        Self::new(serde_json::from_slice(bytes).map_err(|error| DockerConfigError::of(&error))?)
    }

    /// What a credential provider answered, by `[scheme://]host[:port][/path]`.
    pub(crate) fn of_auths(auths: BTreeMap<String, AuthConfig>) -> Self {
        let entry = |(key, auth)| (key, Entry { auth, email: String::new() });
        Self { entries: auths.into_iter().map(entry).collect() }
    }

    fn new(raw: BTreeMap<String, Option<RawEntry>>) -> Result<Self, DockerConfigError> {
        let read = |(key, entry): (String, Option<RawEntry>)| Ok((key, entry.unwrap_or_default().read()?));
        Ok(Self { entries: raw.into_iter().map(read).collect::<Result<_, _>>()? })
    }
}

// === impl RawEntry ===

impl RawEntry {
    /// `auth`, where it is set, overrides `username` and `password`. Tokens that are empty are not set.
    fn read(self) -> Result<Entry, DockerConfigError> {
        let (username, password) = match self.auth.filter(|auth| !auth.is_empty()) {
            Some(auth) => split_auth(&auth)?,
            None => (self.username.unwrap_or_default(), self.password.unwrap_or_default()),
        };
        let token = |text: Option<String>| text.filter(|text| !text.is_empty()).map(Into::into);
        let auth = AuthConfig {
            username,
            password: password.into(),
            identity_token: token(self.identitytoken),
            registry_token: token(self.registrytoken),
        };
        Ok(Entry { auth, email: self.email.unwrap_or_default() })
    }
}

/// User and password of base64 of `user:password`. Go's decoders skip line ends.
fn split_auth(auth: &str) -> Result<(String, String), DockerConfigError> {
    let packed: String = auth.chars().filter(|character| !matches!(character, '\r' | '\n')).collect();
    let decoded = BASE64.decode(packed).map_err(|_| DockerConfigError::Auth)?;
    let text = String::from_utf8(decoded).map_err(|_| DockerConfigError::Auth)?;
    let (user, password) = text.split_once(':').ok_or(DockerConfigError::Auth)?;
    Ok((user.to_owned(), password.to_owned()))
}

// === impl DockerConfigError ===

impl DockerConfigError {
    /// Takes over where it is wrong; the parser's own text quotes what is there.
    fn of(error: &serde_json::Error) -> Self {
        let kind = match error.classify() {
            serde_json::error::Category::Data => FormError::Shape,
            serde_json::error::Category::Eof => FormError::End,
            serde_json::error::Category::Syntax | serde_json::error::Category::Io => FormError::Syntax,
        };
        Self::Form { kind, line: error.line(), column: error.column() }
    }
}

impl fmt::Display for FormError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syntax => "invalid JSON",
            Self::Shape => "unexpected type of value",
            Self::End => "unexpected end",
        })
    }
}
