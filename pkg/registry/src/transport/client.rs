//! HTTP clients: one per host and trust, so that connections are re-used.

use std::sync::Arc;

use reqwest::redirect::Policy;
use reqwest::{NoProxy, Proxy};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use imagevol_api::oci::{Digest, Reference};
use imagevol_base::Digester;

use super::Site;
use crate::config::RegistryConfig;
use crate::endpoint::{Endpoint, endpoints};
use crate::hosts::{self, ConfigError};
use crate::lru::Lru;
use crate::reach::{GuardedResolver, Home};

/// Hosts whose connections are kept; a node talks to a handful.
const CLIENTS_MAX: usize = 64;
/// Most headers of an answer; hyper's own limit, named so that a change of it is seen.
const HEADERS_MAX: usize = 100;
/// How we call ourselves.
pub(crate) const USER_AGENT: &str = concat!("imagevol/", env!("CARGO_PKG_VERSION"));

/// Turns references into sites.
#[derive(Debug)]
pub(crate) struct Clients {
    config: Arc<RegistryConfig>,
    plain_http: Arc<[String]>,
    proxies: Arc<[String]>,
    ready: Lru<Key, reqwest::Client>,
}

#[derive(Debug, PartialEq, Eq)]
struct Key {
    base: String,
    roots: Digest,
    skip_verify: bool,
}

// === impl Clients ===

impl Clients {
    pub(crate) fn new(config: Arc<RegistryConfig>) -> Self {
        let plain_http = config.plain_http.clone().into();
        let proxies = config.proxies.hosts().map(str::to_owned).collect();
        Self { config, plain_http, proxies, ready: Lru::new(CLIENTS_MAX) }
    }

    /// The hosts to ask for `reference`, in order. Blocking: reads the hosts directory and, for a new host, the system's roots.
    pub(crate) fn sites(&self, reference: &Reference) -> Result<Vec<Site>, ConfigError> {
        self.endpoints(reference)?.into_iter().map(|endpoint| self.site(endpoint)).collect()
    }

    /// The same, without connections. Blocking: reads the hosts directory.
    pub(crate) fn endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>, ConfigError> {
        let dir = self.config.hosts_dir.as_deref();
        let hosts = dir.map(|dir| hosts::read(dir, reference)).transpose()?.flatten();
        endpoints(reference, hosts.as_ref(), &self.config)
    }

    fn site(&self, endpoint: Endpoint) -> Result<Site, ConfigError> {
        let mut roots = Vec::new();
        for path in &endpoint.ca {
            let pem = hosts::read_capped(path)?;
            certificates(&pem).ok_or_else(|| ConfigError::Certificate { path: path.clone() })?;
            roots.extend_from_slice(&pem);
            // A file need not end in a line end.
            roots.push(b'\n');
        }
        let home = Arc::new(Home::new(&endpoint, Arc::clone(&self.plain_http)));
        let key =
            Key { base: endpoint.base.to_string(), roots: Digester::sha256(&roots), skip_verify: endpoint.skip_verify };
        let client = match self.ready.get(&key) {
            Some(client) => client,
            None => self.build(&endpoint, &home, &roots)?,
        };
        self.ready.put(key, client.clone());
        Ok(Site { endpoint: Arc::new(endpoint), home, client, roots: roots.into() })
    }

    fn build(&self, endpoint: &Endpoint, home: &Arc<Home>, roots: &[u8]) -> Result<reqwest::Client, ConfigError> {
        let failed =
            |source| ConfigError::Client { registry: endpoint.authority().to_owned(), source: Arc::new(source) };
        let extra = certificates(roots).unwrap_or_default();
        let extra: Vec<_> =
            extra.iter().map(|der| reqwest::Certificate::from_der(der)).collect::<Result<_, _>>().map_err(failed)?;
        let builder = || {
            let builder = self.plain_builder(home)?;
            Ok(builder.tls_danger_accept_invalid_certs(endpoint.skip_verify).tls_certs_merge(extra.clone()))
        };
        let built = builder().and_then(reqwest::ClientBuilder::build);
        match built {
            // A machine without any root certificate can still speak plain HTTP; its HTTPS redirects will fail to verify.
            Err(error) if endpoint.base.scheme() == "http" => {
                tracing::warn!(registry = endpoint.authority(), %error, "no system root certificates");
                builder().and_then(|builder| builder.tls_certs_only([]).build()).map_err(failed)
            }
            other => other.map_err(failed),
        }
    }

    fn plain_builder(&self, home: &Arc<Home>) -> reqwest::Result<reqwest::ClientBuilder> {
        let bypass = NoProxy::from_string(&self.config.proxies.bypass());
        let mut builder = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .redirect(Policy::none())
            .referer(false)
            .no_proxy()
            .http1_max_headers(HEADERS_MAX)
            .connect_timeout(self.config.timeouts.connect)
            .read_timeout(self.config.timeouts.idle)
            .dns_resolver(GuardedResolver::new(Arc::clone(home), Arc::clone(&self.proxies)));
        if let Some(proxy) = &self.config.proxies.http {
            builder = builder.proxy(Proxy::http(proxy.url().clone())?.no_proxy(bypass.clone()));
        }
        if let Some(proxy) = &self.config.proxies.https {
            builder = builder.proxy(Proxy::https(proxy.url().clone())?.no_proxy(bypass));
        }
        Ok(builder)
    }
}

/// The certificates of a PEM file; `None` if it has none or a broken one.
pub(crate) fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?;
    (!found.is_empty()).then_some(found)
}
