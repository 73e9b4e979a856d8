//! What a registry is shown to prove who asks.

use secrecy::SecretString;

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
#[derive(Debug, Clone, Default)]
pub enum Credential {
    /// No credentials matched: ask as anybody.
    #[default]
    Anonymous,
    /// Credentials from a secret or from the node's configuration.
    Auth(AuthConfig),
}
