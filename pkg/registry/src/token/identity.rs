//! Credentials as a registry wants to see them.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use secrecy::{ExposeSecret as _, SecretString};

use imagevol_api::auth::AuthConfig;
use imagevol_api::oci::{Algorithm, Digest};
use imagevol_base::Digester;

/// Longest token that is put into a header; servers refuse headers of more than some 8 to 16 KiB.
const TOKEN_MAX: usize = 16 * 1024;

/// Who asks. Cheap to clone; `Debug` shows no secret.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    auth: Option<Arc<AuthConfig>>,
}

/// Tells credentials apart without holding them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint(Digest);

/// The value of an `Authorization` header.
#[derive(Clone)]
pub(crate) struct Authorization {
    header: HeaderValue,
    proof: Proof,
}

/// The same, as oci-client wants it.
#[derive(Clone)]
pub(crate) enum Proof {
    Basic { username: String, password: SecretString },
    Bearer(SecretString),
}

// === impl Identity ===

impl Identity {
    pub(crate) fn anonymous() -> Self {
        Self { auth: None }
    }

    /// Credentials without a name and without a token are nobody's.
    pub(crate) fn new(auth: &AuthConfig) -> Self {
        let tokens = auth.identity_token.is_some() || auth.registry_token.is_some();
        let named = !auth.username.is_empty();
        Self { auth: (named || tokens).then(|| Arc::new(auth.clone())) }
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        let mut digester = Digester::new(Algorithm::Sha256);
        if let Some(auth) = &self.auth {
            let optional =
                |secret: &Option<SecretString>| secret.as_ref().map(|secret| secret.expose_secret().to_owned());
            let parts = [
                Some(auth.username.clone()),
                Some(auth.password.expose_secret().to_owned()),
                optional(&auth.identity_token),
                optional(&auth.registry_token),
            ];
            for part in parts {
                // Lengths keep `ab`+`c` apart from `a`+`bc`; absent parts differ from empty ones.
                let length = part.as_ref().map_or_else(|| "-".to_owned(), |part| part.len().to_string());
                digester.update(length.as_bytes());
                digester.update(b":");
                digester.update(part.unwrap_or_default().as_bytes());
            }
        }
        Fingerprint(digester.finish())
    }

    /// What is shown without being asked: a registry token, which no token service gave.
    pub(crate) fn at_once(&self) -> Option<Authorization> {
        Authorization::bearer(self.auth.as_ref()?.registry_token.as_ref()?.expose_secret())
    }

    pub(crate) fn has_registry_token(&self) -> bool {
        self.auth.as_ref().is_some_and(|auth| auth.registry_token.is_some())
    }

    /// The OAuth2 refresh token.
    pub(crate) fn refresh_token(&self) -> Option<&SecretString> {
        self.auth.as_ref()?.identity_token.as_ref()
    }

    /// User name and password, where there is a name.
    pub(crate) fn basic(&self) -> Option<Authorization> {
        let auth = self.auth.as_ref().filter(|auth| !auth.username.is_empty())?;
        Authorization::basic(&auth.username, &auth.password)
    }

    /// Every secret, and the form in which it is sent, to keep them out of errors.
    pub(crate) fn secrets(&self) -> Vec<String> {
        let Some(auth) = &self.auth else { return Vec::new() };
        let tokens = [&auth.identity_token, &auth.registry_token].into_iter().flatten();
        let mut secrets: Vec<String> = tokens.map(|token| token.expose_secret().to_owned()).collect();
        let password = auth.password.expose_secret();
        secrets.push(STANDARD.encode(format!("{}:{password}", auth.username)));
        secrets.push(password.to_owned());
        secrets
    }
}

// === impl Authorization ===

impl Authorization {
    fn basic(username: &str, password: &SecretString) -> Option<Self> {
        let encoded = STANDARD.encode(format!("{username}:{}", password.expose_secret()));
        let header = sensitive(&format!("Basic {encoded}"))?;
        Some(Self { header, proof: Proof::Basic { username: username.to_owned(), password: password.clone() } })
    }

    /// `None` for a token with characters that have no place in a header.
    pub(crate) fn bearer(token: &str) -> Option<Self> {
        let fit = !token.is_empty() && token.len() <= TOKEN_MAX && token.bytes().all(|byte| byte.is_ascii_graphic());
        let header = sensitive(&format!("Bearer {token}")).filter(|_| fit)?;
        Some(Self { header, proof: Proof::Bearer(SecretString::from(token)) })
    }

    pub(crate) fn header(&self) -> &HeaderValue {
        &self.header
    }

    pub(crate) fn proof(&self) -> &Proof {
        &self.proof
    }

    /// Tells authorizations apart without holding them.
    pub(crate) fn fingerprint(&self) -> Digest {
        Digester::sha256(self.header.as_bytes())
    }

    /// What of it must not be repeated.
    pub(crate) fn secret(&self) -> Option<String> {
        let (_, secret) = self.header.to_str().ok()?.split_once(' ')?;
        Some(secret.to_owned())
    }
}

impl PartialEq for Authorization {
    fn eq(&self, other: &Self) -> bool {
        self.header == other.header
    }
}

impl std::fmt::Debug for Authorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.proof {
            Proof::Basic { .. } => "Authorization(Basic)",
            Proof::Bearer(_) => "Authorization(Bearer)",
        })
    }
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn auth(username: &str, password: &str) -> AuthConfig {
        AuthConfig { username: username.to_owned(), password: password.into(), ..AuthConfig::default() }
    }

    #[rstest]
    #[case("abc.DEF-123_~+/=", true)]
    #[case("", false)]
    #[case("a b", false)]
    #[case("a\r\nX-Evil: 1", false)]
    #[case("a\u{e9}", false)]
    fn only_clean_tokens_reach_a_header(#[case] token: &str, #[case] fit: bool) {
        assert_eq!(Authorization::bearer(token).is_some(), fit);
    }

    #[test]
    fn credentials_are_told_apart() {
        let of = |auth: &AuthConfig| Identity::new(auth).fingerprint();
        assert_ne!(of(&auth("ab", "c")), of(&auth("a", "bc")));
        assert_ne!(of(&auth("a", "b")), of(&auth("a", "c")));
        assert_eq!(of(&auth("a", "b")), of(&auth("a", "b")));
        let token = AuthConfig { identity_token: Some("b".into()), ..auth("a", "") };
        assert_ne!(of(&token), of(&auth("a", "b")));
        assert_eq!(of(&auth("", "")), Identity::anonymous().fingerprint());
    }

    #[test]
    fn debug_shows_no_secret() {
        let identity = Identity::new(&auth("user", "hunter2"));
        let shown = format!("{identity:?} {:?}", identity.basic());
        assert!(!shown.contains("hunter2") && !shown.contains("dXNlcjpodW50ZXIy"), "{shown}");
    }
}
