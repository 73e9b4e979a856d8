//! Where a registry may send us: redirects and token services name hosts that nobody on this node chose.

mod resolver;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use reqwest::Url;

use crate::endpoint::{Endpoint, is_listed, is_loopback, literal_address};

pub(crate) use resolver::GuardedResolver;

/// Metadata services and the like outside the link-local ranges, from the clouds' own manuals.
const METADATA: [IpAddr; 4] = [
    // AWS on IPv6, "Instance metadata".
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    // Alibaba Cloud, "Instance metadata".
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    // Oracle Cloud's services of the host, "Security lists".
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    // Azure, "What is IP address 168.63.129.16?".
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
];

/// Why a URL that a registry named is not visited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// It is no URL.
    #[error("it is no valid URL")]
    Syntax,
    /// Its scheme is neither `http` nor `https`.
    #[error("its scheme is neither http nor https")]
    Scheme,
    /// It holds a user name or a password.
    #[error("it holds a user name or a password")]
    UserInfo,
    /// It leads from HTTPS to plain HTTP.
    #[error("it leads from https to plain http")]
    Downgrade,
    /// It is plain HTTP to a host that is neither loopback nor configured for it.
    #[error("it is plain http to a host that is not configured for it")]
    PlainHttp,
    /// Its address is this machine's, link-local, or a metadata service's, and the registry's own is not.
    #[error("its address is loopback, link-local or otherwise special")]
    Address,
    /// There were more redirects than 10.
    #[error("there are too many of them")]
    TooMany,
}

/// The registry host from which the travel starts, and what that permits.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    base: Url,
    plain_http: Arc<[String]>,
    loopback: bool,
    link_local: bool,
}

// === impl Home ===

impl Home {
    pub(crate) fn new(endpoint: &Endpoint, plain_http: Arc<[String]>) -> Self {
        Self {
            base: endpoint.base.clone(),
            plain_http,
            loopback: is_loopback(&endpoint.base),
            link_local: literal_address(&endpoint.base).is_some_and(is_link_local),
        }
    }

    /// Whether `url` has the scheme, host and port of the registry: only then does it see credentials.
    pub(crate) fn is_home(&self, url: &Url) -> bool {
        self.base.origin() == url.origin()
    }

    /// Where `location`, answered at `current`, leads.
    pub(crate) fn redirect(&self, current: &Url, location: &str) -> Result<Url, Forbidden> {
        let url = current.join(location).map_err(|_| Forbidden::Syntax)?;
        if current.scheme() == "https" && url.scheme() == "http" {
            return Err(Forbidden::Downgrade);
        }
        self.check(url)
    }

    /// The token service that a challenge names.
    pub(crate) fn realm(&self, realm: &str) -> Result<Url, Forbidden> {
        let url = Url::parse(realm).map_err(|_| Forbidden::Syntax)?;
        if self.base.scheme() == "https" && url.scheme() == "http" {
            return Err(Forbidden::Downgrade);
        }
        self.check(url)
    }

    /// Whether a resolved address may be connected to.
    pub(crate) fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if address.is_loopback() {
            return self.loopback;
        }
        if is_link_local(address) {
            return self.link_local;
        }
        !(address.is_unspecified() || address.is_multicast() || METADATA.contains(&address))
    }

    /// Whether `name` is the registry's own host name.
    pub(crate) fn is_named(&self, name: &str) -> bool {
        self.base.host_str().is_some_and(|host| host.eq_ignore_ascii_case(name))
    }

    fn check(&self, url: Url) -> Result<Url, Forbidden> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Forbidden::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Forbidden::UserInfo);
        }
        if self.is_home(&url) {
            return Ok(url);
        }
        let literal = literal_address(&url).is_some_and(|address| !self.allows(address));
        if literal || (is_loopback(&url) && !self.loopback) {
            return Err(Forbidden::Address);
        }
        if url.scheme() == "http" && !self.may_be_plain(&url) {
            return Err(Forbidden::PlainHttp);
        }
        Ok(url)
    }

    fn may_be_plain(&self, url: &Url) -> bool {
        let listed = |authority: &str| is_listed(authority, &self.plain_http);
        is_loopback(url) || listed(url.authority()) || url.host_str().is_some_and(listed)
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests;
