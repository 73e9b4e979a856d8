//! Whether a registry would give a blob to somebody: asked without fetching it.

use imagevol_api::auth::Credential;
use imagevol_api::oci::{Digest, Reference};

use crate::error::{Asked, RegistryError, Result, Subject};
use crate::registry::{Inner, Registry};
use crate::retry::Attempts;
use crate::transport::{Ask, Part, Site};

/// One question.
struct Question<'q> {
    inner: &'q Inner,
    reference: &'q Reference,
    digest: &'q Digest,
    credential: &'q Credential,
}

// === impl Registry ===

impl Registry {
    /// Asks the hosts of `reference` for a blob of its repository as [`Registry::fetch`] does, and takes none of its bytes. The error
    /// is the one that a fetch would end with: not found, denied, or a failure that passes.
    ///
    /// It says that this registry would give the blob, not that it has the right bytes: only those prove that.
    pub async fn check_blob(&self, reference: &Reference, digest: &Digest, credential: &Credential) -> Result<()> {
        let question = Question { inner: &self.inner, reference, digest, credential };
        let sites = self.inner.sites_of_blob(reference, digest).await?;
        let mut attempts = Attempts::new(self.inner.config.retries);
        loop {
            let Err(error) = question.ask_any(&sites).await else { return Ok(()) };
            let Some(delay) = attempts.after(&error) else { return Err(error) };
            tracing::debug!(%error, ?delay, "asking for a blob's presence again");
            tokio::time::sleep(delay).await;
        }
    }
}

// === impl Question ===

impl Question<'_> {
    async fn ask_any(&self, sites: &[Site]) -> Result<()> {
        let mut last = None;
        for site in sites {
            match self.ask(site).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::debug!(host = site.name(), %error, "host does not offer the blob");
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| RegistryError::Internal { registry: self.reference.domain().to_owned() }))
    }

    /// `HEAD` is for every registry to know (distribution spec, "Checking if content exists"). Some do not, and storage that they
    /// redirect to may have been told of `GET` alone: then the first byte is asked for.
    async fn ask(&self, site: &Site) -> Result<()> {
        match self.ask_for(site, Part::Existence).await {
            Err(RegistryError::Refused(_) | RegistryError::Unavailable(_)) => self.ask_for(site, Part::First).await,
            answer => answer,
        }
    }

    async fn ask_for(&self, site: &Site, part: Part) -> Result<()> {
        let ask = Ask {
            url: site.endpoint.url(&format!("{}/blobs/{}", self.reference.path(), self.digest)),
            asked: Asked { repository: self.reference.path().to_owned(), subject: Subject::Blob(self.digest.clone()) },
            accept: None,
            part,
            timeout: Some(self.inner.config.timeouts.small),
        };
        // What follows the head of the answer is not read.
        self.inner.get(site, &ask, self.credential).await?.refuse_web_page()
    }
}
