//! One plugin: what it said before, else what it says now.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use imagevol_api::credentialprovider::{
    CredentialProvider, CredentialProviderRequest, CredentialProviderResponse, ResponseError,
};
use secrecy::{ExposeSecret as _, SecretSlice};
use tokio::time::Instant;

use super::Behalf;
use super::cache::{self, Cache};
use super::flights::Flights;
use super::identity::{Identity, Missing, Subject};
use super::metrics::ProviderMetrics;
use super::program::{Program, Question, RunError};
use crate::keyring::{DockerConfig, ServiceAccountCoordinates};

/// A plugin, its answers and its questions under way.
#[derive(Debug)]
pub(super) struct Plugin {
    shared: Arc<Shared>,
    flights: Flights<(String, Identity), Answered>,
}

#[derive(Debug)]
struct Shared {
    config: CredentialProvider,
    program: Program,
    metrics: ProviderMetrics,
    cache: Mutex<Cache>,
}

/// What a plugin knows.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) credentials: Arc<DockerConfig>,
    /// Whose the credentials are; `None` if any pod of the node may use them.
    pub(super) account: Option<Arc<ServiceAccountCoordinates>>,
}

type Answered = Result<Arc<DockerConfig>, Arc<AskError>>;

/// Why a plugin gives no credentials.
#[derive(Debug, thiserror::Error)]
enum AskError {
    /// What to ask cannot be written.
    #[error("failed to encode the request")]
    Encode(#[source] serde_json::Error),
    /// The program gave no answer.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The answer is none.
    #[error("failed to decode the answer")]
    Decode(#[source] ResponseError),
    /// The answer is the token itself, and would be given to other pods of the account.
    #[error("the plugin returned the service account token as the password, which needs cacheType Token")]
    Echo,
}

// === impl Plugin ===

impl Plugin {
    pub(super) fn new(config: CredentialProvider, program: Program, metrics: ProviderMetrics) -> Self {
        let cache = Mutex::new(Cache::new(Instant::now()));
        Self { shared: Arc::new(Shared { config, program, metrics, cache }), flights: Flights::default() }
    }

    pub(super) fn is_for(&self, repository: &str) -> bool {
        self.shared.config.is_for(repository)
    }

    /// What it knows for `repository`; `None` if it is not asked, or has no answer. The log says why.
    pub(super) async fn ask(&self, repository: &str, behalf: Behalf<'_>) -> Option<Answer> {
        let plugin = &*self.shared.config.name;
        let subject = match Subject::of(self.shared.config.token_attributes.as_ref(), behalf) {
            Ok(subject) => subject,
            Err(reason @ (Missing::Account | Missing::Annotation(_))) => {
                tracing::debug!(plugin, repository, %reason, "credential provider is not asked");
                return None;
            }
            Err(reason @ Missing::Token(_)) => {
                tracing::warn!(plugin, repository, %reason, "credential provider cannot be asked");
                return None;
            }
        };
        let account = match &subject {
            Subject::Anybody => None,
            Subject::Account(account) => Some(Arc::clone(&account.coordinates)),
        };
        match self.credentials(repository, subject).await {
            Ok(credentials) => Some(Answer { credentials, account }),
            Err(error) => {
                let error = crate::text::with_causes(&error);
                tracing::error!(plugin, repository, error, "credential provider gives no credentials");
                None
            }
        }
    }

    async fn credentials(&self, repository: &str, subject: Subject) -> Answered {
        let known = self.shared.cache().get(repository, &subject.shares_answers(), Instant::now());
        if let Some(known) = known {
            return Ok(known);
        }
        let key = (repository.to_owned(), subject.shares_questions());
        let (shared, repository) = (Arc::clone(&self.shared), repository.to_owned());
        self.flights.run(key, || async move { shared.ask(&repository, &subject).await.map_err(Arc::new) }).await
    }
}

// === impl Shared ===

impl Shared {
    async fn ask(&self, repository: &str, subject: &Subject) -> Result<Arc<DockerConfig>, AskError> {
        let request = self.request(repository, subject);
        let (bytes, token) = (request.encode().map_err(AskError::Encode)?, request.service_account_token);
        let answer = self.run(&Question { request: bytes, token }).await?;
        let version = self.config.api_version;
        let answer = CredentialProviderResponse::decode(answer.expose_secret(), version).map_err(AskError::Decode)?;
        if answer.auth.values().any(|auth| subject.is_echoed_by(&auth.password)) {
            return Err(AskError::Echo);
        }
        let keep = answer.cache_duration.unwrap_or(self.config.default_cache_duration.get());
        let credentials = Arc::new(DockerConfig::of_auths(answer.auth));
        let (scope, identity, now) = (answer.cache_key_type, subject.shares_answers(), Instant::now());
        self.cache().insert(cache::Question { scope, repository, identity, now }, Arc::clone(&credentials), keep);
        Ok(credentials)
    }

    fn request(&self, repository: &str, subject: &Subject) -> CredentialProviderRequest {
        let (token, annotations) = match subject {
            Subject::Anybody => (None, BTreeMap::new()),
            Subject::Account(account) => (Some(account.token.clone()), account.annotations.clone()),
        };
        CredentialProviderRequest {
            api_version: self.config.api_version,
            image: repository.to_owned(),
            service_account_token: token,
            service_account_annotations: annotations,
        }
    }

    async fn run(&self, question: &Question) -> Result<SecretSlice<u8>, RunError> {
        let began = Instant::now();
        let ended = self.program.run(question).await;
        self.metrics.ran(&self.config.name, began.elapsed());
        ended.inspect_err(|_| self.metrics.failed(&self.config.name))
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
