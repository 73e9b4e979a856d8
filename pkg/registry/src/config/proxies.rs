//! HTTP proxies, as the usual variables name them.

use std::fmt;

use reqwest::Url;

/// Never behind a proxy, as in Go's `ProxyFromEnvironment`.
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1";

/// The proxies of the node.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    /// For `http://` registries.
    pub http: Option<ProxyUrl>,
    /// For `https://` registries.
    pub https: Option<ProxyUrl>,
    /// Hosts, domains and networks reached without a proxy, separated by commas.
    pub no_proxy: String,
}

/// A proxy's address. It may hold a password, so that `Debug` shows the host alone.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl(Url);

/// Why a value is no proxy's address. The value itself may hold a password and is not repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// The value is no URL.
    #[error("{variable} is no URL")]
    Syntax {
        /// The variable's name.
        variable: &'static str,
    },
    /// Only `http` and `https` proxies are spoken to.
    #[error("{variable} has scheme {scheme:?}; only http and https proxies are supported")]
    Scheme {
        /// The variable's name.
        variable: &'static str,
        /// What stands before `://`.
        scheme: String,
    },
}

// === impl Proxies ===

impl Proxies {
    /// Reads `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, or the lower-case names where those are not set, through `lookup`.
    pub fn from_env(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ProxyError> {
        let find = |upper: &str, lower: &str| lookup(upper).or_else(|| lookup(lower)).filter(|value| !value.is_empty());
        let proxy = |upper: &'static str, lower: &str| {
            find(upper, lower).map(|value| ProxyUrl::parse(upper, &value)).transpose()
        };
        Ok(Self {
            http: proxy("HTTP_PROXY", "http_proxy")?,
            https: proxy("HTTPS_PROXY", "https_proxy")?,
            no_proxy: find("NO_PROXY", "no_proxy").unwrap_or_default(),
        })
    }

    /// `no_proxy` with loopback, in one list.
    pub(crate) fn bypass(&self) -> String {
        if self.no_proxy.is_empty() {
            return LOOPBACK.to_owned();
        }
        format!("{},{LOOPBACK}", self.no_proxy)
    }

    /// Names of the proxies themselves.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &str> {
        [&self.http, &self.https].into_iter().flatten().filter_map(|proxy| proxy.0.host_str())
    }
}

// === impl ProxyUrl ===

impl ProxyUrl {
    /// `host:port` alone means `http://host:port`. Errors name `variable`.
    pub fn parse(variable: &'static str, value: &str) -> Result<Self, ProxyError> {
        let with_scheme = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
        let url = Url::parse(&with_scheme).map_err(|_| ProxyError::Syntax { variable })?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(ProxyError::Scheme { variable, scheme: url.scheme().to_owned() });
        }
        Ok(Self(url))
    }

    pub(crate) fn url(&self) -> &Url {
        &self.0
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProxyUrl({}://{})", self.0.scheme(), self.0.host_str().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(pairs: &[(&str, &str)]) -> Result<Proxies, ProxyError> {
        Proxies::from_env(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn upper_case_names_win() {
        let proxies = from(&[("https_proxy", "http://low:1"), ("HTTPS_PROXY", "high:2")]).unwrap();
        assert_eq!(proxies.https.unwrap().url().as_str(), "http://high:2/");
        assert_eq!(from(&[("http_proxy", "")]).unwrap().http, None);
    }

    #[test]
    fn a_password_is_neither_shown_nor_repeated() {
        let proxies = from(&[("HTTP_PROXY", "http://user:hunter2@proxy:3128")]).unwrap();
        assert!(!format!("{proxies:?}").contains("hunter2"));
        let error = from(&[("HTTP_PROXY", "socks5://user:hunter2@proxy")]).unwrap_err();
        assert_eq!(error.to_string(), "HTTP_PROXY has scheme \"socks5\"; only http and https proxies are supported");
    }

    #[test]
    fn loopback_is_never_proxied() {
        assert_eq!(from(&[("NO_PROXY", ".corp")]).unwrap().bypass(), ".corp,localhost,127.0.0.0/8,::1");
    }
}
