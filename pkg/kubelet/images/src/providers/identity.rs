//! For whom a plugin is asked, and among whom its answer is shared (KEP-4412). Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imagevol_api::credentialprovider::{RequireServiceAccount, ServiceAccountTokenAttributes, TokenCacheType};
use imagevol_base::Digester;
use secrecy::{ExposeSecret, SecretString};

use super::Behalf;
use crate::claims::ServiceAccountClaim;
use crate::keyring::ServiceAccountCoordinates;

/// For whom a plugin is asked.
#[derive(Debug, Clone)]
pub(super) enum Subject {
    /// Any pod of the node: the plugin does not want to know, or there is no service account.
    Anybody,
    /// A service account.
    Account(Account),
}

/// What a plugin is told of a service account.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) coordinates: Arc<ServiceAccountCoordinates>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) token: SecretString,
    cache_type: TokenCacheType,
}

/// What tells two askers apart. The whole of it, not a hash of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Identity {
    /// There is one answer for all.
    Anybody,
    /// Each account has its own, or each token.
    Account {
        coordinates: Arc<ServiceAccountCoordinates>,
        annotations: BTreeMap<String, String>,
        token: Option<TokenHash>,
    },
}

/// SHA-256 of a token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct TokenHash(String);

/// What is missing, so that a plugin is not asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Missing {
    /// It wants a service account, and the pod has none.
    #[error("the pod has no service account")]
    Account,
    /// It wants an annotation: service accounts without it do not take part.
    #[error("the service account has no annotation {0:?}")]
    Annotation(String),
    /// It wants a token that nobody has issued, or handed over.
    #[error("there is no token of the pod's service account for audience {0:?}")]
    Token(String),
}

// === impl Subject ===

impl Subject {
    /// For whom a plugin with `attributes` is asked on `behalf`.
    ///
    /// That a pod's account is not known is not that it has none: what a plugin gives to pods without one may be more.
    pub(super) fn of(attributes: Option<&ServiceAccountTokenAttributes>, behalf: Behalf<'_>) -> Result<Self, Missing> {
        let Some(attributes) = attributes else { return Ok(Self::Anybody) };
        match (behalf, attributes.require_service_account) {
            (Behalf::Node, RequireServiceAccount::Yes) => Err(Missing::Account),
            (Behalf::Node, RequireServiceAccount::No) => Ok(Self::Anybody),
            (Behalf::UnknownAccount, _) => Err(Missing::Token(attributes.audience.clone())),
            (Behalf::Account(claim), _) => Account::of(attributes, claim).map(Self::Account),
        }
    }

    /// Among whom an answer is kept.
    pub(super) fn shares_answers(&self) -> Identity {
        match self {
            Self::Anybody => Identity::Anybody,
            Self::Account(account) => account.identity(account.cache_type),
        }
    }

    /// Who waits for one and the same question: a plugin may make its answer from the token, and forbid to keep it.
    pub(super) fn shares_questions(&self) -> Identity {
        match self {
            Self::Anybody => Identity::Anybody,
            Self::Account(account) => account.identity(TokenCacheType::Token),
        }
    }

    /// Whether `password` is the token, where answers are kept for others than its owner.
    pub(super) fn is_echoed_by(&self, password: &SecretString) -> bool {
        match self {
            Self::Anybody => false,
            Self::Account(account) => {
                account.cache_type != TokenCacheType::Token && account.token.expose_secret() == password.expose_secret()
            }
        }
    }
}

// === impl Account ===

impl Account {
    fn of(attributes: &ServiceAccountTokenAttributes, claim: &ServiceAccountClaim) -> Result<Self, Missing> {
        let mut annotations = select(claim, &attributes.required_annotations);
        let missing = attributes.required_annotations.iter().find(|key| !annotations.contains_key(*key));
        if let Some(key) = missing {
            return Err(Missing::Annotation(key.clone()));
        }
        annotations.extend(select(claim, &attributes.optional_annotations));
        let no_token = || Missing::Token(attributes.audience.clone());
        let token = claim.token(&attributes.audience).ok_or_else(no_token)?.clone();
        let coordinates = Arc::new(claim.coordinates());
        Ok(Self { coordinates, annotations, token, cache_type: attributes.cache_type })
    }

    /// An account without UID may be another of the same name: then the token alone tells them apart.
    fn identity(&self, cache_type: TokenCacheType) -> Identity {
        let by_token = cache_type == TokenCacheType::Token || self.coordinates.uid.is_empty();
        Identity::Account {
            coordinates: Arc::clone(&self.coordinates),
            annotations: self.annotations.clone(),
            token: by_token.then(|| TokenHash::of(&self.token)),
        }
    }
}

fn select(claim: &ServiceAccountClaim, keys: &BTreeSet<String>) -> BTreeMap<String, String> {
    let wanted = claim.annotations.iter().filter(|(key, _)| keys.contains(*key));
    wanted.map(|(key, value)| (key.clone(), value.clone())).collect()
}

// === impl TokenHash ===

impl TokenHash {
    fn of(token: &SecretString) -> Self {
        Self(Digester::sha256(token.expose_secret().as_bytes()).hex().to_owned())
    }
}

#[cfg(test)]
mod tests;
