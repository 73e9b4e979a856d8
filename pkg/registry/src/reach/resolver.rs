//! Name resolution that does not lead to this machine or to a metadata service by a detour.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::Home;

/// Resolves names of redirect targets and token services only to addresses that [`Home::allows`].
///
/// The names of the registry itself and of the proxies were chosen by the node's owner: theirs resolve to anything.
#[derive(Debug, Clone)]
pub(crate) struct GuardedResolver {
    home: Arc<Home>,
    proxies: Arc<[String]>,
}

/// A name leads nowhere that it may lead to.
#[derive(Debug, thiserror::Error)]
#[error("host {name} has only loopback, link-local or otherwise special addresses")]
struct NoAddress {
    name: String,
}

// === impl GuardedResolver ===

impl GuardedResolver {
    pub(crate) fn new(home: Arc<Home>, proxies: Arc<[String]>) -> Self {
        Self { home, proxies }
    }

    fn trusts(&self, name: &str) -> bool {
        self.home.is_named(name) || self.proxies.iter().any(|proxy| proxy.eq_ignore_ascii_case(name))
    }

    fn filter(&self, name: &str, found: impl Iterator<Item = SocketAddr>) -> Result<Vec<SocketAddr>, NoAddress> {
        let trusted = self.trusts(name);
        let allowed: Vec<_> = found.filter(|address| trusted || self.home.allows(address.ip())).collect();
        if allowed.is_empty() {
            return Err(NoAddress { name: name.to_owned() });
        }
        Ok(allowed)
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let found: io::Result<_> = tokio::net::lookup_host((name.as_str(), 0)).await;
            let addresses: Addrs = Box::new(resolver.filter(name.as_str(), found?)?.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use reqwest::Url;

    use super::*;
    use crate::endpoint::{Endpoint, Role};
    use crate::hosts::Capabilities;

    #[test]
    fn a_strangers_name_may_not_lead_to_this_machine() {
        let endpoint = Endpoint {
            base: Url::parse("https://r.io/v2/").unwrap(),
            role: Role::Registry,
            capabilities: Capabilities::default(),
            namespace: None,
            ca: Vec::new(),
            skip_verify: false,
        };
        let home = Arc::new(Home::new(&endpoint, Arc::from([])));
        let resolver = GuardedResolver::new(home, Arc::from(["proxy".to_owned()]));
        let found =
            || ["127.0.0.1:0", "169.254.169.254:0", "192.0.2.1:0"].map(|text| text.parse().unwrap()).into_iter();
        assert_eq!(resolver.filter("cdn.example", found()).unwrap().len(), 1);
        assert!(resolver.filter("cdn.example", found().take(2)).is_err());
        assert_eq!(resolver.filter("R.io", found()).unwrap().len(), 3);
        assert_eq!(resolver.filter("proxy", found()).unwrap().len(), 3);
    }
}
