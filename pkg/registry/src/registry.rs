//! The client: one per node.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;

use imagevol_api::auth::Credential;
use imagevol_api::oci::{Digest, Reference};
use imagevol_base::{Digester, Supervisor};

use crate::blob::{BlobAsk, BlobStream};
use crate::config::{Limits, RegistryConfig};
use crate::endpoint::Endpoint;
use crate::error::{Asked, RegistryError, Result, Subject};
use crate::hosts::ConfigError;
use crate::listing::Listings;
use crate::lru::Lru;
use crate::manifest::Descriptor;
use crate::token::{Authorization, TokenSource, identity_for};
use crate::transport::{Ask, Clients, Reply, Site};

/// Blobs of which it is remembered that a host serves wrong bytes.
const DISTRUSTED_MAX: usize = 256;

/// Talks to registries. Clones share connections and tokens.
///
/// What it gives to one credential it never gives to another: tokens are kept per host, repository and credential.
#[derive(Debug, Clone)]
pub struct Registry {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: Arc<RegistryConfig>,
    pub(crate) listings: Listings,
    clients: Arc<Clients>,
    tokens: Arc<TokenSource>,
    /// Host and blob.
    distrusted: Lru<(String, Digest), ()>,
}

/// What a host must be able to do to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Pull,
    Resolve,
}

// === impl Registry ===

impl Registry {
    /// A client that runs its token requests as tasks of `supervisor`. The process must have a TLS provider installed.
    pub fn new(config: RegistryConfig, supervisor: &Supervisor) -> Self {
        let config = Arc::new(config);
        let inner = Inner {
            clients: Arc::new(Clients::new(Arc::clone(&config))),
            tokens: TokenSource::new(config.limits, config.timeouts, supervisor),
            listings: Listings::new(),
            distrusted: Lru::new(DISTRUSTED_MAX),
            config,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Most that is taken from a registry, and from whoever stands in for one.
    pub fn limits(&self) -> Limits {
        self.inner.config.limits
    }

    /// The hosts that are asked for `reference`, in order, as the hosts directory says now.
    pub async fn endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>> {
        self.inner.blocking(reference, Clients::endpoints).await
    }

    /// Streams a blob of `reference`'s repository from byte `from` on; exactly `descriptor.size - from` bytes come, or an error.
    ///
    /// Broken connections are resumed. The caller checks the digest; if it is wrong, it tells [`Registry::distrust`].
    /// A blob of which nothing is wanted any more (`from` at its size) is not asked for at all.
    pub async fn fetch(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        from: u64,
        credential: &Credential,
    ) -> Result<BlobStream> {
        let ask = BlobAsk {
            reference: reference.clone(),
            digest: descriptor.digest.clone(),
            size: descriptor.size,
            credential: credential.clone(),
        };
        BlobStream::open(Arc::clone(&self.inner), ask, from).await
    }

    /// A whole blob of at most `cap` bytes, its digest checked: for configs. A larger one is refused before it is asked for.
    pub async fn fetch_small(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        cap: u64,
        credential: &Credential,
    ) -> Result<Bytes> {
        let asked =
            Asked { repository: reference.path().to_owned(), subject: Subject::Blob(descriptor.digest.clone()) };
        let registry = reference.domain().to_owned();
        if descriptor.size > cap {
            return Err(RegistryError::TooLarge { registry, asked, limit: cap });
        }
        let mut stream = self.fetch(reference, descriptor, 0, credential).await?;
        let mut body = bytes::BytesMut::new();
        while let Some(chunk) = stream.next().await {
            body.extend_from_slice(&chunk?);
        }
        let actual = Digester::of(descriptor.digest.algorithm(), &body);
        if actual == descriptor.digest {
            return Ok(body.freeze());
        }
        self.distrust(&descriptor.digest, stream.sources());
        Err(RegistryError::DigestMismatch { registry, asked, actual })
    }

    /// Remembers that these hosts served bytes that are not the blob: others are asked first from now on.
    pub fn distrust(&self, digest: &Digest, hosts: &[String]) {
        for host in hosts {
            tracing::warn!(%digest, host, "registry host served wrong content");
            self.inner.distrusted.put((host.clone(), digest.clone()), ());
        }
    }
}

// === impl Inner ===

impl Inner {
    /// Hosts that may be asked for what `need` says; never empty.
    pub(crate) async fn sites(&self, reference: &Reference, need: Need) -> Result<Vec<Site>> {
        let mut sites = self.blocking(reference, Clients::sites).await?;
        sites.retain(|site| need.is_met(site));
        if sites.is_empty() {
            let registry = reference.domain().to_owned();
            return Err(RegistryError::NoEndpoint { registry, capability: need.name() });
        }
        Ok(sites)
    }

    /// The same, those that are distrusted with this blob last.
    pub(crate) async fn sites_of_blob(&self, reference: &Reference, digest: &Digest) -> Result<Vec<Site>> {
        let mut sites = self.sites(reference, Need::Pull).await?;
        sites.sort_by_key(|site| self.distrusted.get(&(site.name().to_owned(), digest.clone())).is_some());
        Ok(sites)
    }

    /// Asks one host, with what `credential` is worth there. Any answer but success is an error, and 416 where a range was asked for.
    pub(crate) async fn get(&self, site: &Site, ask: &Ask, credential: &Credential) -> Result<Reply> {
        let (reply, shown) = self.tokens.get(site, ask, credential).await?;
        let beyond = ask.part.range().is_some() && reply.status() == StatusCode::RANGE_NOT_SATISFIABLE;
        if reply.status().is_success() || beyond {
            return Ok(reply);
        }
        Err(self.refusal(site, reply, (credential, shown.as_ref())).await)
    }

    /// What `site` accepted for `ask`; the answer itself is not looked at beyond its status.
    pub(crate) async fn authorize(
        &self,
        site: &Site,
        ask: &Ask,
        credential: &Credential,
    ) -> Result<Option<Authorization>> {
        let (reply, shown) = self.tokens.get(site, ask, credential).await?;
        if reply.status().is_success() {
            return Ok(shown);
        }
        Err(self.refusal(site, reply, (credential, shown.as_ref())).await)
    }

    async fn refusal(
        &self,
        site: &Site,
        reply: Reply,
        (credential, shown): (&Credential, Option<&Authorization>),
    ) -> RegistryError {
        let mut secrets = identity_for(site, credential).secrets();
        secrets.extend(shown.and_then(Authorization::secret));
        reply.into_error(site, self.config.limits.error_body, &secrets).await
    }

    /// Runs a step that reads files on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        reference: &Reference,
        step: fn(&Clients, &Reference) -> Result<T, ConfigError>,
    ) -> Result<T> {
        let (clients, reference) = (Arc::clone(&self.clients), reference.clone());
        let registry = reference.domain().to_owned();
        let done = tokio::task::spawn_blocking(move || step(&clients, &reference)).await;
        let result = done.map_err(|_| RegistryError::Internal { registry: registry.clone() })?;
        result.map_err(|source| RegistryError::Configuration { registry, source: Arc::new(source) })
    }
}

// === impl Need ===

impl Need {
    fn is_met(self, site: &Site) -> bool {
        match self {
            Self::Pull => site.endpoint.capabilities.pull,
            Self::Resolve => site.endpoint.capabilities.resolve,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Resolve => "resolve",
        }
    }
}
