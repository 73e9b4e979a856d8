//! Which hosts are asked for a reference, in which order, and how.

use std::net::IpAddr;
use std::path::PathBuf;

use reqwest::Url;

use imagevol_api::oci::Reference;

use crate::config::RegistryConfig;
use crate::hosts::{Capabilities, ConfigError, HostEntry, HostsFile};

/// The name that references use for Docker Hub.
const DOCKER_HUB: &str = "docker.io";
/// The host that serves Docker Hub's API (distribution/reference and containerd, `DefaultHost`).
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// What a host is to the registry that a reference names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The registry itself, or what the node's configuration puts in its place: it is shown credentials.
    Registry,
    /// A mirror: asked first, and anonymously, because credentials are for the registry that they name.
    Mirror,
}

/// One host to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Base URL; its path ends in `/v2/`.
    pub base: Url,
    /// Whose host it is.
    pub role: Role,
    /// What it may be asked for.
    pub capabilities: Capabilities,
    /// The registry's name, which hosts of another name are told as `?ns=`, as containerd does.
    pub namespace: Option<String>,
    /// Files with certificates to trust besides those of the system.
    pub ca: Vec<PathBuf>,
    /// Trust any certificate.
    pub skip_verify: bool,
}

// === impl Endpoint ===

impl Endpoint {
    /// `host` or `host:port`, as errors show it.
    pub fn authority(&self) -> &str {
        self.base.authority()
    }

    /// The URL of `path` below the base.
    pub(crate) fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path()));
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        url
    }
}

/// Whom to ask for `reference`: mirrors in the order of `hosts`, then the registry.
///
/// Without a word in `hosts`, HTTPS is spoken, and plain HTTP to loopback and to `config.plain_http`.
pub fn endpoints(
    reference: &Reference,
    hosts: Option<&HostsFile>,
    config: &RegistryConfig,
) -> Result<Vec<Endpoint>, ConfigError> {
    let domain = reference.domain();
    let default = default_url(domain, &config.plain_http)?;
    let none = HostsFile::default();
    let hosts = hosts.unwrap_or(&none);
    let mirrors = hosts.mirrors.iter().map(|entry| (entry, Role::Mirror));
    let all = mirrors.chain([(&hosts.server, Role::Registry)]);
    Ok(all.map(|(entry, role)| endpoint(entry, role, domain, &default)).collect())
}

fn endpoint(entry: &HostEntry, role: Role, domain: &str, default: &Url) -> Endpoint {
    let base = entry.url.clone().unwrap_or_else(|| default.clone());
    let named = base.authority() == default.authority();
    Endpoint {
        role: if named { Role::Registry } else { role },
        capabilities: entry.capabilities,
        namespace: (!named).then(|| domain.to_owned()),
        ca: entry.ca.clone(),
        skip_verify: entry.skip_verify,
        base,
    }
}

fn default_url(domain: &str, plain_http: &[String]) -> Result<Url, ConfigError> {
    let host = if domain == DOCKER_HUB { DOCKER_HUB_HOST } else { domain };
    let failed = |_| ConfigError::Registry { registry: domain.to_owned() };
    let https = Url::parse(&format!("https://{host}/v2/")).map_err(failed)?;
    let https_port = domain.ends_with(":443");
    let plain = is_listed(domain, plain_http) || (is_loopback(&https) && !https_port);
    if plain {
        return Url::parse(&format!("http://{host}/v2/")).map_err(failed);
    }
    Ok(https)
}

/// Whether `authority` is in a list of plain-HTTP registries, in any case of letters.
pub(crate) fn is_listed(authority: &str, plain_http: &[String]) -> bool {
    plain_http.iter().any(|listed| listed.eq_ignore_ascii_case(authority))
}

/// Whether the URL names this machine: `localhost`, `127.0.0.0/8` or `[::1]`.
pub(crate) fn is_loopback(url: &Url) -> bool {
    url.host_str() == Some("localhost")
        || literal_address(url).is_some_and(|address| address.to_canonical().is_loopback())
}

/// The address, where the URL's host is one.
pub(crate) fn literal_address(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    host.parse().ok()
}

#[cfg(test)]
mod tests;
