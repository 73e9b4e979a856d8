//! Proof of who asks: challenge-driven, for Basic and Bearer (distribution, token and OAuth2 authentication specifications).

mod identity;
mod service;

use std::sync::Arc;
use std::time::Duration;

use imagevol_api::auth::Credential;
use imagevol_base::{SingleFlight, Supervisor};
use tokio::time::Instant;

use crate::challenge::{self, Wanted};
use crate::config::{Limits, Timeouts};
use crate::endpoint::Role;
use crate::error::{Asked, RegistryError, Result};
use crate::lru::Lru;
use crate::transport::{Ask, Reply, Site};

pub(crate) use identity::{Authorization, Fingerprint, Identity, Proof};
use service::TokenRequest;

/// Tokens kept; one per host, repository and credential in use.
const TOKENS_MAX: usize = 1024;
/// How long a token request goes on when nobody waits for it any more: the next who asks may well want it.
const FETCH_GRACE: Duration = Duration::from_secs(10);
/// Token rounds in one request: a cached token may have been revoked, and then a fresh one too.
const ROUNDS_MAX: usize = 2;

/// Gets, keeps and renews what requests are authorized with. Never shares anything between credentials.
#[derive(Debug)]
pub(crate) struct TokenSource {
    limits: Limits,
    timeouts: Timeouts,
    known: Lru<Key, Known>,
    fetching: SingleFlight<Key, Result<Known>>,
}

/// Who wants what from which host.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    base: String,
    repository: String,
    who: Fingerprint,
}

/// What a host accepted or should accept, and until when.
#[derive(Debug, Clone)]
struct Known {
    authorization: Authorization,
    /// `None` holds for ever: user name and password.
    until: Option<Instant>,
}

// === impl TokenSource ===

impl TokenSource {
    pub(crate) fn new(limits: Limits, timeouts: Timeouts, supervisor: &Supervisor) -> Arc<Self> {
        let fetching = SingleFlight::new(supervisor.child("registry-tokens"), FETCH_GRACE);
        Arc::new(Self { limits, timeouts, known: Lru::new(TOKENS_MAX), fetching })
    }

    /// Asks `site`, and answers its challenges. A 401 that nothing helps against is returned as it is.
    ///
    /// Also returns what the request was authorized with in the end.
    pub(crate) async fn get(
        self: &Arc<Self>,
        site: &Site,
        ask: &Ask,
        credential: &Credential,
    ) -> Result<(Reply, Option<Authorization>)> {
        let identity = identity_for(site, credential);
        let key = Key {
            base: site.endpoint.base.to_string(),
            repository: ask.asked.repository.clone(),
            who: identity.fingerprint(),
        };
        let mut shown = self.cached(&key).or_else(|| identity.at_once());
        let mut rounds = 0;
        loop {
            let reply = site.get(ask, shown.as_ref().map(Authorization::header)).await?;
            if reply.status() != http::StatusCode::UNAUTHORIZED || !reply.at_home || rounds == ROUNDS_MAX {
                return Ok((reply, shown));
            }
            rounds += 1;
            let better = self.answer(site, &reply, (&key, &identity), shown.as_ref()).await?;
            if better.is_none() {
                return Ok((reply, shown));
            }
            shown = better;
        }
    }

    /// What to show instead of `refused`; `None` if there is nothing better.
    async fn answer(
        self: &Arc<Self>,
        site: &Site,
        reply: &Reply,
        (key, identity): (&Key, &Identity),
        refused: Option<&Authorization>,
    ) -> Result<Option<Authorization>> {
        if identity.has_registry_token() {
            return Ok(None);
        }
        match challenge::wanted(reply.headers()) {
            None => Ok(None),
            Some(Wanted::Basic) => {
                let basic = identity.basic().filter(|basic| Some(basic) != refused);
                if let Some(authorization) = &basic {
                    self.known.put(key.clone(), Known { authorization: authorization.clone(), until: None });
                }
                Ok(basic)
            }
            Some(Wanted::Bearer { realm, service, scope }) => {
                // Somebody else may have renewed it since.
                if let Some(newer) = self.cached(key).filter(|newer| Some(newer) != refused) {
                    return Ok(Some(newer));
                }
                self.known.remove(key);
                let realm = site
                    .home
                    .realm(&realm)
                    .map_err(|source| RegistryError::Realm { registry: site.name().to_owned(), source })?;
                let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", key.repository));
                let request = TokenRequest { realm, service, scope, identity: identity.clone() };
                self.fetch(site, key, request).await.map(Some)
            }
        }
    }

    async fn fetch(self: &Arc<Self>, site: &Site, key: &Key, request: TokenRequest) -> Result<Authorization> {
        let (tokens, site, own_key) = (Arc::clone(self), site.clone(), key.clone());
        let registry = site.name().to_owned();
        let operation = move || async move {
            let asked = Asked { repository: own_key.repository.clone(), subject: crate::error::Subject::Token };
            let token = request.send(&site, asked, &tokens.limits, &tokens.timeouts).await?;
            let known = Known { authorization: token.authorization, until: Some(token.until) };
            tokens.known.put(own_key, known.clone());
            Ok(known)
        };
        let known = self.fetching.run(key.clone(), operation).await;
        known.unwrap_or(Err(RegistryError::Internal { registry })).map(|known| known.authorization)
    }

    fn cached(&self, key: &Key) -> Option<Authorization> {
        let known = self.known.get(key)?;
        let fresh = known.until.is_none_or(|until| Instant::now() < until);
        fresh.then_some(known.authorization)
    }
}

/// Mirrors are asked by nobody in particular.
pub(crate) fn identity_for(site: &Site, credential: &Credential) -> Identity {
    match (site.endpoint.role, credential) {
        (Role::Registry, Credential::Auth(auth)) => Identity::new(auth),
        (Role::Registry, Credential::Anonymous) | (Role::Mirror, _) => Identity::anonymous(),
    }
}
