//! What a registry is shown to prove who asks.

use secrecy::{ExposeSecret as _, SecretString};

/// Credentials for one registry, as the CRI's `AuthConfig` carries them. Secrets never reach `Debug`.
#[derive(Debug, Clone, Default)]
pub struct AuthConfig {
    /// User name for basic authentication and for token requests.
    pub username: String,
    /// Password for the same.
    pub password: SecretString,
    /// OAuth2 refresh token (`identitytoken` of a docker config), used instead of user name and password where it is set.
    pub identity_token: Option<SecretString>,
    /// Bearer token sent as it is (`registrytoken` of a docker config).
    pub registry_token: Option<SecretString>,
}

/// Who asks: nobody in particular, or the owner of credentials.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Credential {
    /// No credentials matched: ask as anybody.
    #[default]
    Anonymous,
    /// Credentials from a secret or from the node's configuration.
    Auth(AuthConfig),
}

// === impl AuthConfig ===

impl PartialEq for AuthConfig {
    /// Whether a registry is shown the same.
    fn eq(&self, other: &Self) -> bool {
        let secrets = |auth: &Self| {
            let secrets = [Some(&auth.password), auth.identity_token.as_ref(), auth.registry_token.as_ref()];
            secrets.map(|secret| secret.map(|secret| secret.expose_secret().to_owned()))
        };
        self.username == other.username && secrets(self) == secrets(other)
    }
}

impl Eq for AuthConfig {}
