//! Tags and referrers, through oci-client: one of its clients per host and authorization, because it keeps the first credentials it is shown.
//!
//! oci-client reads answers whole: a time limit bounds them, and no pull depends on them.
//! Only the registry itself is asked: a mirror knows what has passed through it, and no more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use secrecy::ExposeSecret as _;

use imagevol_api::auth::Credential;
use imagevol_api::oci::{Digest, Reference};

use crate::config::RegistryConfig;
use crate::error::{Asked, RegistryError, Result, Subject};
use crate::lru::Lru;
use crate::manifest::Descriptor;
use crate::registry::{Need, Registry};
use crate::token::{Authorization, Proof};
use crate::transport::{Ask, Part, Site, USER_AGENT, certificates};

/// Clients kept.
const CLIENTS_MAX: usize = 16;
/// Tags asked for at once; registries may send fewer.
const PAGE: usize = 1000;
/// Tags listed at most: a registry must not make us list for ever.
const TAGS_MAX: usize = 100_000;
/// The path below which oci-client looks.
const ROOT_PATH: &str = "/v2/";

/// A manifest that refers to another one: a signature, an SBOM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referrer {
    /// Where it is.
    pub descriptor: Descriptor,
    /// What it is.
    pub artifact_type: Option<String>,
}

/// The clients in use.
#[derive(Debug)]
pub(crate) struct Listings {
    clients: Lru<(String, Option<Digest>), Arc<oci_client::Client>>,
}

/// A client that may list one repository.
struct Lister {
    client: Arc<oci_client::Client>,
    auth: RegistryAuth,
    registry: String,
    timeout: Duration,
}

// === impl Registry ===

impl Registry {
    /// The tags of `reference`'s repository, sorted; those outside the grammar of tags are left out. For people: no pull needs it.
    pub async fn tags(&self, reference: &Reference, credential: &Credential) -> Result<Vec<String>> {
        let asked = Asked { repository: reference.path().to_owned(), subject: Subject::Tags };
        let lister = self.lister(reference, &asked, credential).await?;
        let image =
            oci_client::Reference::with_tag(lister.registry.clone(), asked.repository.clone(), "latest".to_owned());
        let mut tags = BTreeSet::new();
        let mut last: Option<String> = None;
        while tags.len() < TAGS_MAX {
            let page = lister.client.list_tags(&image, &lister.auth, Some(PAGE), last.as_deref());
            let page = lister.wait(page, &asked).await?.tags;
            last = page.last().cloned();
            let before = tags.len();
            tags.extend(page.into_iter().filter(|tag| is_tag(reference, tag)));
            if tags.len() == before {
                break;
            }
        }
        Ok(tags.into_iter().collect())
    }

    /// The manifests that refer to `digest` in `reference`'s repository, of one type where that is given.
    pub async fn referrers(
        &self,
        reference: &Reference,
        digest: &Digest,
        artifact_type: Option<&str>,
        credential: &Credential,
    ) -> Result<Vec<Referrer>> {
        let asked = Asked { repository: reference.path().to_owned(), subject: Subject::Referrers(digest.clone()) };
        let lister = self.lister(reference, &asked, credential).await?;
        let (registry, repository) = (lister.registry.clone(), asked.repository.clone());
        let image = oci_client::Reference::with_digest(registry, repository, digest.to_string());
        if lister.auth != RegistryAuth::Anonymous {
            lister.client.store_auth_if_needed(&lister.registry, &lister.auth).await;
        }
        let index = lister.wait(lister.client.pull_referrers(&image, artifact_type), &asked).await?;
        let wanted =
            |referrer: &Referrer| artifact_type.is_none() || referrer.artifact_type.as_deref() == artifact_type;
        // An entry without a usable digest or size can be neither fetched nor checked.
        Ok(index.manifests.into_iter().filter_map(referrer).filter(wanted).collect())
    }

    /// Learns by a request of our own, whose answers are capped, what the registry wants to see; then hands that over.
    async fn lister(&self, reference: &Reference, asked: &Asked, credential: &Credential) -> Result<Lister> {
        let mut sites = self.inner.sites(reference, Need::Resolve).await?;
        let site = sites.pop().ok_or_else(|| RegistryError::Internal { registry: reference.domain().to_owned() })?;
        if site.endpoint.base.path() != ROOT_PATH {
            return Err(RegistryError::ListingBelowPath { registry: site.name().to_owned() });
        }
        let mut url = site.endpoint.url(&format!("{}/tags/list", reference.path()));
        url.query_pairs_mut().append_pair("n", "1");
        let timeout = self.inner.config.timeouts.small;
        let ask = Ask { url, asked: asked.clone(), accept: None, part: Part::From(0), timeout: Some(timeout) };
        let authorization = self.inner.authorize(&site, &ask, credential).await?;
        let client = self.inner.listings.client(&site, authorization.as_ref(), &self.inner.config, asked)?;
        let auth = authorization.map_or(RegistryAuth::Anonymous, |authorization| oci_auth(&authorization));
        Ok(Lister { client, auth, registry: site.name().to_owned(), timeout })
    }
}

// === impl Listings ===

impl Listings {
    pub(crate) fn new() -> Self {
        Self { clients: Lru::new(CLIENTS_MAX) }
    }

    fn client(
        &self,
        site: &Site,
        authorization: Option<&Authorization>,
        config: &RegistryConfig,
        asked: &Asked,
    ) -> Result<Arc<oci_client::Client>> {
        let key = (site.endpoint.base.to_string(), authorization.map(Authorization::fingerprint));
        if let Some(client) = self.clients.get(&key) {
            return Ok(client);
        }
        let client = oci_client::Client::try_from(client_config(site, config))
            .map_err(|error| failed(site.name(), asked, error))?;
        let client = Arc::new(client);
        self.clients.put(key, Arc::clone(&client));
        Ok(client)
    }
}

// === impl Lister ===

impl Lister {
    async fn wait<T>(&self, work: impl Future<Output = Result<T, OciDistributionError>>, asked: &Asked) -> Result<T> {
        let late = || OciDistributionError::GenericError(Some(format!("no complete answer in {:?}", self.timeout)));
        let done = tokio::time::timeout(self.timeout, work).await;
        done.unwrap_or_else(|_| Err(late())).map_err(|error| failed(&self.registry, asked, error))
    }
}

fn failed(registry: &str, asked: &Asked, error: OciDistributionError) -> RegistryError {
    RegistryError::Listing { registry: registry.to_owned(), asked: asked.clone(), source: Arc::new(error) }
}

fn client_config(site: &Site, config: &RegistryConfig) -> ClientConfig {
    let roots = certificates(&site.roots).unwrap_or_default();
    let root = |der: rustls::pki_types::CertificateDer<'_>| Certificate {
        encoding: CertificateEncoding::Der,
        data: der.to_vec(),
    };
    let proxy = |proxy: &Option<crate::ProxyUrl>| proxy.as_ref().map(|proxy| proxy.url().to_string());
    let plain = site.endpoint.base.scheme() == "http";
    ClientConfig {
        protocol: if plain { ClientProtocol::HttpsExcept(vec![site.name().to_owned()]) } else { ClientProtocol::Https },
        accept_invalid_certificates: site.endpoint.skip_verify,
        extra_root_certificates: roots.into_iter().map(root).collect(),
        read_timeout: Some(config.timeouts.small),
        connect_timeout: Some(config.timeouts.connect),
        user_agent: USER_AGENT,
        https_proxy: proxy(&config.proxies.https),
        http_proxy: proxy(&config.proxies.http),
        no_proxy: Some(config.proxies.bypass()),
        ..ClientConfig::default()
    }
}

fn oci_auth(authorization: &Authorization) -> RegistryAuth {
    match authorization.proof() {
        Proof::Basic { username, password } => {
            RegistryAuth::Basic(username.clone(), password.expose_secret().to_owned())
        }
        Proof::Bearer(token) => RegistryAuth::Bearer(token.expose_secret().to_owned()),
    }
}

fn is_tag(reference: &Reference, tag: &str) -> bool {
    Reference::parse(&format!("{}:{tag}", reference.repository())).is_ok_and(|parsed| parsed.tag() == Some(tag))
}

fn referrer(entry: oci_client::manifest::ImageIndexEntry) -> Option<Referrer> {
    let descriptor = Descriptor {
        media_type: entry.media_type,
        digest: entry.digest.parse().ok()?,
        size: u64::try_from(entry.size).ok()?,
        annotations: entry.annotations.unwrap_or_default(),
    };
    Some(Referrer { descriptor, artifact_type: entry.artifact_type })
}
