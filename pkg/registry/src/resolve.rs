//! From a reference to one checked manifest.

use bytes::Bytes;

use imagevol_api::auth::Credential;
use imagevol_api::oci::{Digest, Reference};
use imagevol_base::Digester;

use crate::config::Limits;
use crate::endpoint::Role;
use crate::error::{Asked, RegistryError, Result, Subject};
use crate::manifest::{ACCEPT, Descriptor, Document, Manifest, ManifestError, parse};
use crate::platform::Platform;
use crate::registry::{Inner, Need, Registry};
use crate::retry::Attempts;
use crate::text::shown;
use crate::transport::{Ask, Part, Reply, Site};
use crate::walk::Walk;

/// The header in which a registry names the digest of what it sends.
const CONTENT_DIGEST: &str = "docker-content-digest";

/// Where a document came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The host that served it.
    pub host: String,
    /// Whether that is the registry itself.
    pub role: Role,
}

/// Something wrong that does not stop a pull.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// The registry's header names another digest than what it sent has.
    #[error("registry {host} names digest {said:?} for content with digest {actual}")]
    ContentDigest {
        /// The host that served it.
        host: String,
        /// The header, fit to be shown.
        said: String,
        /// The digest of what came.
        actual: Digest,
    },
}

/// What a reference is, for one platform.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The reference asked for, with its default tag.
    pub reference: Reference,
    /// The image's identity: the digest of its manifest.
    pub manifest_digest: Digest,
    /// The manifest as served: these bytes have that digest.
    pub manifest_bytes: Bytes,
    /// The manifest, checked.
    pub manifest: Manifest,
    /// What the reference itself points at: the manifest, or the index above it.
    pub root_digest: Digest,
    /// Who served the manifest.
    pub source: Source,
    /// What was wrong on the way.
    pub warnings: Vec<Warning>,
}

/// What to fetch: what the reference names, or what an index names.
enum Target<'t> {
    Tag(&'t str),
    Digest(&'t Digest),
    Entry(&'t Descriptor),
}

/// A document whose bytes are what was asked for.
struct Fetched {
    parts: Parts,
    document: Document,
    warning: Option<Warning>,
}

/// What is kept of a document besides what it says.
struct Parts {
    bytes: Bytes,
    digest: Digest,
    source: Source,
}

/// One resolution under way.
struct Resolution<'r> {
    inner: &'r Inner,
    reference: &'r Reference,
    credential: &'r Credential,
    warnings: Vec<Warning>,
}

// === impl Registry ===

impl Registry {
    /// Asks what `reference` is now. A digest wins over a tag; neither means `latest`.
    ///
    /// Of an index the best manifest for `platform` is taken. A manifest that the reference names itself is taken
    /// for whatever platform it is, as in containerd. Each host may be asked several times; the registry's own error counts.
    pub async fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
        credential: &Credential,
    ) -> Result<Resolved> {
        let reference = reference.clone().with_default_tag();
        let mut resolution = Resolution { inner: &self.inner, reference: &reference, credential, warnings: Vec::new() };
        let root = resolution.root().await?;
        let root_digest = root.parts.digest.clone();
        let (leaf, manifest) = resolution.leaf(root, platform).await?;
        Ok(Resolved {
            manifest_digest: leaf.digest,
            manifest_bytes: leaf.bytes,
            manifest,
            root_digest,
            source: leaf.source,
            warnings: resolution.warnings,
            reference,
        })
    }
}

// === impl Resolution ===

impl Resolution<'_> {
    async fn root(&mut self) -> Result<Fetched> {
        let reference = self.reference;
        let target = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => Target::Digest(digest),
            (None, tag) => Target::Tag(tag.unwrap_or("latest")),
        };
        self.fetch(&target).await
    }

    /// Walks down indexes, best entry first, each document at most once.
    async fn leaf(&mut self, root: Fetched, platform: &Platform) -> Result<(Parts, Manifest)> {
        let mut walk = Walk::from(&root.parts.digest);
        let mut current = root;
        loop {
            let entries = match current.document {
                Document::Manifest(manifest) => return Ok((current.parts, *manifest)),
                Document::Index(entries) => entries,
            };
            walk.descend(&entries, platform).map_err(|error| self.unusable(&current.parts, error))?;
            let Some(next) = walk.next() else { return Err(self.no_platform(platform, walk.available())) };
            current = self.fetch(&Target::Entry(&next)).await?;
        }
    }

    /// Asks every host in order, and all of them again while that may help.
    async fn fetch(&mut self, target: &Target<'_>) -> Result<Fetched> {
        let sites = self.inner.sites(self.reference, target.need()).await?;
        let mut attempts = Attempts::new(self.inner.config.retries);
        loop {
            let error = match self.fetch_from_any(&sites, target).await {
                Ok(fetched) => {
                    self.warnings.extend(fetched.warning.clone());
                    return Ok(fetched);
                }
                Err(error) => error,
            };
            let Some(delay) = attempts.after(&error) else { return Err(error) };
            tracing::debug!(%error, ?delay, "asking for a manifest again");
            tokio::time::sleep(delay).await;
        }
    }

    async fn fetch_from_any(&self, sites: &[Site], target: &Target<'_>) -> Result<Fetched> {
        let mut last = None;
        for site in sites {
            match self.fetch_from(site, target).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => {
                    tracing::debug!(host = site.name(), %error, "host has no usable manifest");
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| RegistryError::Internal { registry: self.reference.domain().to_owned() }))
    }

    async fn fetch_from(&self, site: &Site, target: &Target<'_>) -> Result<Fetched> {
        let (name, asked) = (target.name(), target.asked(self.reference));
        let ask = Ask {
            url: site.endpoint.url(&format!("{}/manifests/{name}", self.reference.path())),
            asked: asked.clone(),
            accept: Some(ACCEPT),
            part: Part::From(0),
            timeout: Some(self.inner.config.timeouts.small),
        };
        let mut reply = self.inner.get(site, &ask, self.credential).await?;
        reply.refuse_web_page()?;
        let bytes = reply.read(site, self.inner.config.limits.manifest).await?;
        let registry = site.name().to_owned();
        let digest = target.check_digest(&bytes).map_err(|actual| RegistryError::DigestMismatch {
            registry: registry.clone(),
            asked: asked.clone(),
            actual,
        })?;
        let document = target.parse(&bytes, reply.content_type(), &self.inner.config.limits).map_err(|source| {
            RegistryError::Manifest { registry: registry.clone(), asked, source: Box::new(source) }
        })?;
        let warning = digest_warning(site, &reply, &digest, &bytes);
        let parts = Parts { bytes, digest, source: Source { host: registry, role: site.endpoint.role } };
        Ok(Fetched { parts, document, warning })
    }

    fn unusable(&self, parts: &Parts, source: ManifestError) -> RegistryError {
        let subject = Subject::Manifest(parts.digest.clone());
        let asked = Asked { repository: self.reference.path().to_owned(), subject };
        RegistryError::Manifest { registry: parts.source.host.clone(), asked, source: Box::new(source) }
    }

    fn no_platform(&self, wanted: &Platform, available: Vec<Platform>) -> RegistryError {
        let reference = self.reference.to_string();
        RegistryError::PlatformNotFound { reference, wanted: wanted.clone(), available }
    }
}

// === impl Target ===

impl Target<'_> {
    fn need(&self) -> Need {
        match self {
            Self::Tag(_) => Need::Resolve,
            Self::Digest(_) | Self::Entry(_) => Need::Pull,
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Tag(tag) => (*tag).to_owned(),
            Self::Digest(digest) => digest.to_string(),
            Self::Entry(descriptor) => descriptor.digest.to_string(),
        }
    }

    fn asked(&self, reference: &Reference) -> Asked {
        let subject = match self {
            Self::Tag(tag) => Subject::Tag((*tag).to_owned()),
            Self::Digest(digest) => Subject::Manifest((*digest).clone()),
            Self::Entry(descriptor) => Subject::Manifest(descriptor.digest.clone()),
        };
        Asked { repository: reference.path().to_owned(), subject }
    }

    /// The digest of `bytes`, which is the one asked for, or the error.
    fn check_digest(&self, bytes: &[u8]) -> Result<Digest, Digest> {
        let wanted = match self {
            Self::Tag(_) => return Ok(Digester::sha256(bytes)),
            Self::Digest(digest) => *digest,
            Self::Entry(descriptor) => &descriptor.digest,
        };
        let actual = Digester::of(wanted.algorithm(), bytes);
        if actual == *wanted { Ok(actual) } else { Err(actual) }
    }

    /// What an index says of an entry counts more than the header of the answer: it is part of what was hashed.
    fn parse(&self, bytes: &[u8], content_type: Option<&str>, limits: &Limits) -> Result<Document, ManifestError> {
        let Self::Entry(descriptor) = self else { return parse(bytes, content_type, limits) };
        let actual = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if actual != descriptor.size {
            return Err(ManifestError::Size { expected: descriptor.size, actual });
        }
        parse(bytes, Some(&descriptor.media_type), limits)
    }
}

/// Our own hash decides; a header that says otherwise is worth a word.
fn digest_warning(site: &Site, reply: &Reply, digest: &Digest, bytes: &[u8]) -> Option<Warning> {
    let said = reply.headers().get(CONTENT_DIGEST)?.to_str().unwrap_or("(not text)");
    let agrees = |said: Digest| said == *digest || said == Digester::of(said.algorithm(), bytes);
    if said.parse().is_ok_and(agrees) {
        return None;
    }
    let warning =
        Warning::ContentDigest { host: site.name().to_owned(), said: shown(said, &[]), actual: digest.clone() };
    tracing::warn!(%warning, "registry contradicts itself");
    Some(warning)
}
