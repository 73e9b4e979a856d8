//! Requests to a token service.

use std::time::Duration;

use http::header::AUTHORIZATION;
use reqwest::Url;
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use tokio::time::Instant;

use super::{Authorization, Identity};
use crate::config::{Limits, Timeouts};
use crate::error::{Asked, RegistryError, Result};
use crate::transport::{Reply, Site};

/// How long a token holds that does not say so, and the least that one holds (distribution, token specification, `expires_in`).
const LIFETIME_MIN: Duration = Duration::from_mins(1);
/// A token is asked for anew at least this often.
const LIFETIME_MAX: Duration = Duration::from_hours(1);
/// A token is not used in the last part of its life: requests take time, and clocks differ in speed.
const MARGIN: Duration = Duration::from_secs(10);
/// How we call ourselves in OAuth2.
const CLIENT_ID: &str = "imagevol";

/// A token with its end.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) authorization: Authorization,
    pub(super) until: Instant,
}

/// What a challenge asks us to get.
#[derive(Debug, Clone)]
pub(super) struct TokenRequest {
    pub(super) realm: Url,
    pub(super) service: Option<String>,
    pub(super) scope: String,
    pub(super) identity: Identity,
}

#[derive(Deserialize)]
struct RawToken {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<serde_json::Value>,
}

// === impl TokenRequest ===

impl TokenRequest {
    /// Asks for a token. Redirects are not followed: credentials go where the challenge said, or nowhere.
    pub(super) async fn send(&self, site: &Site, asked: Asked, limits: &Limits, timeouts: &Timeouts) -> Result<Token> {
        let request = self.request(site).timeout(timeouts.small);
        let response = request.send().await.map_err(|error| site.failure(error, &asked))?;
        let host = self.realm.authority().to_owned();
        let mut reply = Reply::of(response, host.clone(), asked);
        if !reply.status().is_success() {
            let error = reply.into_error(site, limits.error_body, &self.identity.secrets()).await;
            // A service that is not there says nothing about the image.
            return Err(if let RegistryError::NotFound(answer) = error {
                RegistryError::Refused(answer)
            } else {
                error
            });
        }
        let received = Instant::now();
        let body = reply.read(site, limits.token).await?;
        let (authorization, lifetime) =
            parse(&body).map_err(|reason| RegistryError::Token { registry: host, reason })?;
        Ok(Token { authorization, until: received + lifetime.saturating_sub(MARGIN) })
    }

    /// OAuth2's `POST` where there is a refresh token, else `GET`, with user name and password where there are any.
    fn request(&self, site: &Site) -> reqwest::RequestBuilder {
        if let Some(token) = self.identity.refresh_token() {
            let service = self.service.as_deref().unwrap_or_default();
            let form = [
                ("grant_type", "refresh_token"),
                ("service", service),
                ("client_id", CLIENT_ID),
                ("scope", &self.scope),
                ("refresh_token", token.expose_secret()),
            ];
            return site.client.post(self.realm.clone()).form(&form);
        }
        let mut url = self.realm.clone();
        if let Some(service) = &self.service {
            url.query_pairs_mut().append_pair("service", service);
        }
        url.query_pairs_mut().append_pair("scope", &self.scope);
        let request = site.client.get(url);
        match self.identity.basic() {
            Some(basic) => request.header(AUTHORIZATION, basic.header().clone()),
            None => request,
        }
    }
}

/// The token and how long it holds.
fn parse(body: &[u8]) -> Result<(Authorization, Duration), &'static str> {
    let raw: RawToken = serde_json::from_slice(body).map_err(|_| "the answer is no token document")?;
    let named = |token: Option<String>| token.filter(|token| !token.is_empty());
    let token = named(raw.token).or_else(|| named(raw.access_token)).ok_or("the answer has no token")?;
    let authorization = Authorization::bearer(&token).ok_or("the token has characters that no header may hold")?;
    // Anything but a positive number says nothing.
    let seconds = raw.expires_in.and_then(|value| value.as_u64()).unwrap_or_default();
    Ok((authorization, Duration::from_secs(seconds).clamp(LIFETIME_MIN, LIFETIME_MAX)))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(r#"{"token":"a"}"#, "a", 60)]
    #[case(r#"{"access_token":"a","expires_in":300}"#, "a", 300)]
    #[case(r#"{"token":"a","access_token":"b","expires_in":0}"#, "a", 60)]
    #[case(r#"{"token":"","access_token":"b","expires_in":-5}"#, "b", 60)]
    #[case(r#"{"token":"a","expires_in":"300"}"#, "a", 60)]
    #[case(r#"{"token":"a","expires_in":1e300}"#, "a", 60)]
    #[case(r#"{"token":"a","expires_in":18446744073709551615}"#, "a", 3600)]
    fn reads_token_documents(#[case] body: &str, #[case] token: &str, #[case] seconds: u64) {
        let (authorization, lifetime) = parse(body.as_bytes()).unwrap();
        assert_eq!(authorization.header().to_str().unwrap(), format!("Bearer {token}"));
        assert_eq!(lifetime.as_secs(), seconds);
    }

    #[rstest]
    #[case("<html>", "the answer is no token document")]
    #[case("{}", "the answer has no token")]
    #[case(r#"{"token":"a\nb"}"#, "the token has characters that no header may hold")]
    fn rejects(#[case] body: &str, #[case] reason: &str) {
        assert_eq!(parse(body.as_bytes()).unwrap_err(), reason);
    }
}
