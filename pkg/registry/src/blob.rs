//! Streams of blobs: exact to the byte, resumed over broken connections.

mod range;

use std::sync::Arc;

use bytes::Bytes;

use imagevol_api::auth::Credential;
use imagevol_api::oci::{Digest, Reference};

use crate::error::{Asked, RegistryError, Result, Subject};
use crate::registry::Inner;
use crate::retry::Attempts;
use crate::transport::{Ask, Part, Reply, Site};

/// Progress that starts the count of attempts anew: a host that gives a byte per connection is not worth patience.
const PROGRESS: u64 = 1024 * 1024;

/// What is streamed, for whom.
#[derive(Debug, Clone)]
pub(crate) struct BlobAsk {
    pub(crate) reference: Reference,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) credential: Credential,
}

/// The bytes of a blob, in order. Not verified: its reader hashes them.
///
/// Dropping it ends the connection. A dropped [`BlobStream::next`] loses nothing.
pub struct BlobStream {
    inner: Arc<Inner>,
    ask: BlobAsk,
    /// First byte of the blob that was not handed out yet.
    position: u64,
    body: Option<Body>,
    sources: Vec<String>,
    attempts: Attempts,
    /// Where the count of attempts started.
    mark: u64,
    ended: bool,
}

/// One connection's share of the blob.
struct Body {
    reply: Reply,
    site: Site,
    /// Bytes still to be thrown away, where a host sends the blob from its start.
    skip: u64,
}

// === impl BlobAsk ===

impl BlobAsk {
    fn asked(&self) -> Asked {
        Asked { repository: self.reference.path().to_owned(), subject: Subject::Blob(self.digest.clone()) }
    }

    fn at(&self, site: &Site, from: u64) -> Ask {
        Ask {
            url: site.endpoint.url(&format!("{}/blobs/{}", self.reference.path(), self.digest)),
            asked: self.asked(),
            accept: None,
            part: Part::From(from),
            timeout: None,
        }
    }
}

// === impl BlobStream ===

impl BlobStream {
    pub(crate) async fn open(inner: Arc<Inner>, ask: BlobAsk, from: u64) -> Result<Self> {
        let attempts = Attempts::new(inner.config.retries);
        let position = from.min(ask.size);
        let mut stream =
            Self { inner, ask, position, body: None, sources: Vec::new(), attempts, mark: position, ended: false };
        while stream.body.is_none() && stream.position < stream.ask.size {
            if let Err(error) = stream.connect().await {
                stream.wait_after(error).await?;
            }
        }
        Ok(stream)
    }

    /// The next bytes; `None` once all have come. After an error there is nothing more.
    pub async fn next(&mut self) -> Option<Result<Bytes>> {
        while !self.ended {
            let error = match self.step().await {
                Ok(Some(bytes)) => return Some(Ok(bytes)),
                Ok(None) => break,
                Err(error) => error,
            };
            if let Err(error) = self.wait_after(error).await {
                self.ended = true;
                return Some(Err(error));
            }
        }
        self.ended = true;
        None
    }

    /// First byte of the blob that was not handed out yet.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Hosts that served a part of it so far, each once, for [`Registry::distrust`](crate::Registry::distrust).
    pub fn sources(&self) -> &[String] {
        &self.sources
    }

    async fn step(&mut self) -> Result<Option<Bytes>> {
        if self.position == self.ask.size {
            return self.expect_end().await.map(|()| None);
        }
        if self.body.is_none() {
            self.connect().await?;
        }
        let Some(body) = &mut self.body else { return Ok(None) };
        match body.chunk().await {
            Ok(Some(bytes)) => self.advance(bytes).map(Some),
            Ok(None) => Err(self.truncated()),
            Err(error) => {
                self.body = None;
                Err(error)
            }
        }
    }

    /// Nothing may follow the last byte. An answer with a length was checked at its head.
    async fn expect_end(&mut self) -> Result<()> {
        let Some(mut body) = self.body.take().filter(|body| body.reply.length().is_none()) else { return Ok(()) };
        match body.chunk().await {
            Ok(Some(_)) => Err(self.too_large(&body.site)),
            // All bytes are here: how the connection ends is of no interest.
            Ok(None) | Err(_) => Ok(()),
        }
    }

    fn advance(&mut self, bytes: Bytes) -> Result<Bytes> {
        let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let position = self.position.saturating_add(count);
        if position > self.ask.size {
            let body = self.body.take();
            return Err(body.map_or_else(|| self.internal(), |body| self.too_large(&body.site)));
        }
        self.position = position;
        if position - self.mark >= PROGRESS {
            self.mark = position;
            self.attempts.reset();
        }
        Ok(bytes)
    }

    /// Connects to the first host that has the blob, at the current position.
    async fn connect(&mut self) -> Result<()> {
        let mut last = None;
        for site in self.inner.sites_of_blob(&self.ask.reference, &self.ask.digest).await? {
            match self.connect_to(&site).await {
                Ok(body) => {
                    self.remember(site.name());
                    self.body = Some(body);
                    return Ok(());
                }
                Err(error) => {
                    tracing::debug!(host = site.name(), %error, "host does not serve the blob");
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| self.internal()))
    }

    async fn connect_to(&self, site: &Site) -> Result<Body> {
        let ask = self.ask.at(site, self.position);
        let mut reply = self.inner.get(site, &ask, &self.ask.credential).await?;
        if reply.status() == http::StatusCode::RANGE_NOT_SATISFIABLE {
            // Such a host has no ranges, or another blob: its whole answer tells which.
            reply = self.inner.get(site, &Ask { part: Part::From(0), ..ask }, &self.ask.credential).await?;
        }
        let skip = self.place(site, &reply)?;
        Ok(Body { reply, site: site.clone(), skip })
    }

    /// How many bytes of the answer lie before the current position.
    fn place(&self, site: &Site, reply: &Reply) -> Result<u64> {
        let said = range::said(reply.headers());
        let placed = range::place(reply.status(), said.as_ref(), (self.position, self.ask.size));
        let skip = placed.map_err(|range::Misplaced| RegistryError::Range {
            registry: site.name().to_owned(),
            asked: self.ask.asked(),
            from: self.position,
            said: range::shown(reply.headers()),
        })?;
        let coming = self.ask.size - self.position + skip;
        match reply.length() {
            Some(length) if length != coming => {
                reply.refuse_web_page()?;
                Err(if length > coming {
                    self.too_large(site)
                } else {
                    self.short(site, self.position - skip + length)
                })
            }
            _ => Ok(skip),
        }
    }

    /// Waits if `error` passes; gives it back if it does not.
    async fn wait_after(&mut self, error: RegistryError) -> Result<()> {
        let Some(delay) = self.attempts.after(&error) else { return Err(error) };
        tracing::debug!(%error, ?delay, position = self.position, "resuming a blob");
        tokio::time::sleep(delay).await;
        Ok(())
    }

    fn remember(&mut self, host: &str) {
        if !self.sources.iter().any(|known| known == host) {
            self.sources.push(host.to_owned());
        }
    }

    fn truncated(&mut self) -> RegistryError {
        let received = self.position;
        match self.body.take() {
            Some(body) => self.short(&body.site, received),
            None => self.internal(),
        }
    }

    fn short(&self, site: &Site, received: u64) -> RegistryError {
        let registry = site.name().to_owned();
        RegistryError::Truncated { registry, asked: self.ask.asked(), expected: self.ask.size, received }
    }

    fn too_large(&self, site: &Site) -> RegistryError {
        RegistryError::TooLarge { registry: site.name().to_owned(), asked: self.ask.asked(), limit: self.ask.size }
    }

    fn internal(&self) -> RegistryError {
        RegistryError::Internal { registry: self.ask.reference.domain().to_owned() }
    }
}

impl std::fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobStream")
            .field("digest", &self.ask.digest)
            .field("position", &self.position)
            .field("size", &self.ask.size)
            .finish_non_exhaustive()
    }
}

// === impl Body ===

impl Body {
    /// The next bytes that are wanted; never an empty chunk.
    async fn chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            let Some(mut bytes) = self.reply.chunk(&self.site).await? else { return Ok(None) };
            let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
            self.skip -= u64::try_from(skipped).unwrap_or_default();
            let wanted = bytes.split_off(skipped);
            if !wanted.is_empty() {
                return Ok(Some(wanted));
            }
        }
    }
}
