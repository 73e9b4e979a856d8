//! HTTP to the hosts of a registry: our own redirects, capped bodies, and no header that would change a blob.

mod client;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION, RANGE};
use http::{HeaderMap, StatusCode};
use reqwest::Url;

use crate::endpoint::Endpoint;
use crate::error::{Answer, Asked, RegistryError, Result};
use crate::reach::{Forbidden, Home};

pub(crate) use client::{Clients, USER_AGENT, certificates};

/// Redirects followed for one request, as in Go's HTTP client.
const REDIRECTS_MAX: usize = 10;

/// A host that is ready to be asked.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) home: Arc<Home>,
    pub(crate) client: reqwest::Client,
    /// Certificates in PEM to trust besides those of the system.
    pub(crate) roots: Arc<[u8]>,
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) url: Url,
    pub(crate) asked: Asked,
    pub(crate) accept: Option<&'static str>,
    pub(crate) part: Part,
    /// For the whole exchange; streams have none.
    pub(crate) timeout: Option<Duration>,
}

/// What is wanted of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Its bytes from this one on; from 0 on is the whole.
    From(u64),
    /// Its first byte alone.
    First,
    /// Only whether it is there: a `HEAD`.
    Existence,
}

/// An answer whose body is not read yet.
#[derive(Debug)]
pub(crate) struct Reply {
    response: reqwest::Response,
    /// Whether the registry itself answered, and not a host that it redirected to.
    pub(crate) at_home: bool,
    registry: String,
    asked: Asked,
}

// === impl Site ===

impl Site {
    /// The host's name, as errors show it.
    pub(crate) fn name(&self) -> &str {
        self.endpoint.authority()
    }

    /// Asks, and follows redirects. Credentials go to the registry's own host alone, and no more once it has been left.
    pub(crate) async fn get(&self, ask: &Ask, authorization: Option<&HeaderValue>) -> Result<Reply> {
        let mut url = ask.url.clone();
        let mut at_home = true;
        for _ in 0..=REDIRECTS_MAX {
            at_home &= self.home.is_home(&url);
            let request = self.request(ask, url.clone(), authorization.filter(|_| at_home));
            let response = request.send().await.map_err(|error| self.failure(error, &ask.asked))?;
            let Some(location) = redirection(&response) else {
                let registry = url.authority().to_owned();
                return Ok(Reply { response, at_home, registry, asked: ask.asked.clone() });
            };
            let next = location.and_then(|location| self.home.redirect(&url, &location));
            url = next.map_err(|reason| self.refuse_redirect(ask, reason))?;
        }
        Err(self.refuse_redirect(ask, Forbidden::TooMany))
    }

    /// What a failed request means.
    pub(crate) fn failure(&self, error: reqwest::Error, asked: &Asked) -> RegistryError {
        let registry = self.name().to_owned();
        // A redirect's URL may carry a signature that grants access.
        let source = Arc::new(error.without_url());
        if let Some(hint) = tls_hint(&*source, &registry) {
            return RegistryError::Tls { registry, hint, source };
        }
        if source.is_connect() {
            return RegistryError::Connect { registry, source };
        }
        RegistryError::Interrupted { registry, asked: asked.clone(), source }
    }

    fn request(&self, ask: &Ask, url: Url, authorization: Option<&HeaderValue>) -> reqwest::RequestBuilder {
        let mut request = match ask.part {
            Part::From(_) | Part::First => self.client.get(url),
            Part::Existence => self.client.head(url),
        };
        if let Some(accept) = ask.accept {
            request = request.header(ACCEPT, accept);
        }
        if let Some(range) = ask.part.range() {
            request = request.header(RANGE, range);
        }
        if let Some(timeout) = ask.timeout {
            request = request.timeout(timeout);
        }
        match authorization {
            Some(value) => request.header(AUTHORIZATION, value.clone()),
            None => request,
        }
    }

    fn refuse_redirect(&self, ask: &Ask, source: Forbidden) -> RegistryError {
        RegistryError::Redirect { registry: self.name().to_owned(), asked: ask.asked.clone(), source }
    }
}

// === impl Part ===

impl Part {
    /// The range to ask for (RFC 9110, section 14.2); none for the whole.
    pub(crate) fn range(self) -> Option<String> {
        match self {
            Self::From(0) | Self::Existence => None,
            Self::From(first) => Some(format!("bytes={first}-")),
            Self::First => Some("bytes=0-0".to_owned()),
        }
    }
}

// === impl Reply ===

impl Reply {
    /// The answer of a host that stands for the registry, such as its token service.
    pub(crate) fn of(response: reqwest::Response, host: String, asked: Asked) -> Self {
        Self { response, at_home: true, registry: host, asked }
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    pub(crate) fn content_type(&self) -> Option<&str> {
        self.headers().get(CONTENT_TYPE)?.to_str().ok()
    }

    pub(crate) fn length(&self) -> Option<u64> {
        self.response.content_length()
    }

    /// The next bytes of the body; `None` at its end.
    pub(crate) async fn chunk(&mut self, site: &Site) -> Result<Option<Bytes>> {
        self.response.chunk().await.map_err(|error| site.failure(error, &self.asked))
    }

    /// The whole body, or an error as soon as it is longer than `limit` bytes.
    pub(crate) async fn read(&mut self, site: &Site, limit: u64) -> Result<Bytes> {
        let too_large =
            || RegistryError::TooLarge { registry: self.registry.clone(), asked: self.asked.clone(), limit };
        if self.length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let mut body = BytesMut::new();
        loop {
            let Some(chunk) = self.response.chunk().await.map_err(|error| site.failure(error, &self.asked))? else {
                return Ok(body.freeze());
            };
            if longer_than(limit, body.len(), chunk.len()) {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
    }

    /// An error for an answer that a browser would show.
    pub(crate) fn refuse_web_page(&self) -> Result<()> {
        let html = self.content_type().is_some_and(|text| text.trim_start().starts_with("text/html"));
        if !html {
            return Ok(());
        }
        Err(RegistryError::WebPage { registry: self.registry.clone(), asked: self.asked.clone() })
    }

    /// The error that this answer means; reads at most `limit` bytes of it.
    pub(crate) async fn into_error(mut self, site: &Site, limit: u64, secrets: &[String]) -> RegistryError {
        let mut body = BytesMut::new();
        // The body only explains: what cannot be read of it is left out, and the status stands.
        while let Ok(Some(chunk)) = self.response.chunk().await {
            if longer_than(limit, body.len(), chunk.len()) {
                break;
            }
            body.extend_from_slice(&chunk);
        }
        tracing::debug!(registry = site.name(), status = self.status().as_u16(), "registry refused a request");
        let answer = Box::new(Answer::new(&self.registry, self.status(), &body, self.asked.clone(), secrets));
        // What another host says is no word of the registry: its redirect may have expired.
        if self.at_home { answer.into_error(self.headers()) } else { RegistryError::Unavailable(answer) }
    }
}

fn longer_than(limit: u64, length: usize, more: usize) -> bool {
    u64::try_from(length.saturating_add(more)).map_or(true, |length| length > limit)
}

/// Where a redirect points; `None` for every other answer.
fn redirection(response: &reqwest::Response) -> Option<Result<String, Forbidden>> {
    matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308).then(|| {
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        location.map(str::to_owned).ok_or(Forbidden::Syntax)
    })
}

/// What the node's owner can do about a failed handshake; `None` if it was something else that failed.
fn tls_hint(error: &(dyn Error + 'static), registry: &str) -> Option<String> {
    let found = find_tls(error)?;
    if matches!(found, rustls::Error::InvalidMessage(_)) {
        return Some(format!("if it speaks plain HTTP, add {registry} to the plain HTTP registries"));
    }
    Some(format!("to trust its certificate, set ca in certs.d/{registry}/hosts.toml"))
}

fn find_tls<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    if let Some(found) = error.downcast_ref::<rustls::Error>() {
        return Some(found);
    }
    // An I/O error hides what it wraps from `source`.
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    let inner = wrapped.map(|inner| inner as &(dyn Error + 'static));
    inner.and_then(find_tls).or_else(|| error.source().and_then(find_tls))
}
