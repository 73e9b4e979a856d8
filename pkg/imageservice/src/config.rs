//! The config of an image: small, kept as a blob, and fetched once for all that pull images with it.

use std::sync::Arc;

use bytes::Bytes;
use imagevol_api::oci::Digest;
use imagevol_cri::Result;
use imagevol_registry::Resolved;
use imagevol_store::{ContentKey, Known, Store, StoreError, Stored};

use crate::EmbeddedImageService;
use crate::error::of_registry;
use crate::fetch::{self, FetchError};
use crate::right::{Proofs, Right};

/// Largest config: 8 MiB, which is what containerd takes (core/images, config of an image).
pub(crate) const MAX_CONFIG_BYTES: u64 = 8 << 20;

/// What makes two fetches of a config one: the same bytes, the same promise of how many, and the same right to them. A config is no
/// larger than the question whether somebody may have it.
pub(crate) type ConfigKey = (Digest, u64, Right);

/// A config that is present. By default none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Config {
    /// Keeps it.
    pub(crate) stored: Option<Arc<Stored>>,
    /// Its content.
    pub(crate) bytes: Bytes,
}

impl EmbeddedImageService {
    /// The config of a manifest that was resolved with this right. What is here from the same repository is not fetched.
    pub(crate) async fn fetch_config_once(&self, resolved: &Arc<Resolved>, proofs: &Proofs) -> Result<Config> {
        let descriptor = &resolved.manifest.config;
        let key = (descriptor.digest.clone(), descriptor.size, proofs.right().clone());
        let start = || self.clone().make_config_present(Arc::clone(resolved), proofs.clone());
        fetch::join(&self.configs, &key, &resolved.reference, start).await
    }

    /// Without a place among the node's downloads: behind large layers of others, nobody would know how large this image is.
    async fn make_config_present(self, resolved: Arc<Resolved>, proofs: Proofs) -> Result<Config, FetchError> {
        let failed = |error| FetchError::new(error, &resolved.reference);
        let (digest, size) = (resolved.manifest.config.digest.clone(), resolved.manifest.config.size);
        let asker = proofs.clone();
        let known = self.blocking(move |store| find_for(&asker, store, &digest, size)).await.map_err(failed)?;
        if let Some(config) = known {
            return Ok(config);
        }
        let (reference, descriptor) = (&resolved.reference, &resolved.manifest.config);
        let here = self.config_of_stores(descriptor).await;
        let bytes = if let Some(bytes) = here {
            bytes
        } else {
            let credential = &proofs.right().credential;
            let fetched = self.registry.fetch_small(reference, descriptor, MAX_CONFIG_BYTES, credential).await;
            let bytes = fetched.map_err(|error| failed(of_registry(&error)))?;
            proofs.add(&descriptor.digest);
            bytes
        };
        let (digest, content) = (descriptor.digest.clone(), bytes.clone());
        let stored = self.blocking(move |store| store.put_blob(&digest, &content)).await.map_err(failed)?;
        Ok(Config { stored: Some(Arc::new(stored)), bytes })
    }
}

/// A config that is here whole. One that is larger than a config may be, or than was promised, is left to who fetches it to refuse.
pub(crate) fn find(store: &Store, digest: &Digest, size: u64) -> Result<Option<Config>, StoreError> {
    let found = store.find(&ContentKey::Blob(digest.clone()))?;
    let Some(stored) = found.filter(|stored| stored.content.size == size && size <= MAX_CONFIG_BYTES) else {
        return Ok(None);
    };
    match store.read_blob(digest) {
        Ok(bytes) => Ok(Some(Config { stored: Some(Arc::new(stored)), bytes: bytes.into() })),
        Err(error @ StoreError::Damaged { .. }) => {
            tracing::error!(%digest, error = &error as &dyn std::error::Error, "a config on disk is not used");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The same for who may have it: it is of an image of his repository, or he has fetched it a moment ago.
fn find_for(proofs: &Proofs, store: &Store, digest: &Digest, size: u64) -> Result<Option<Config>, StoreError> {
    let Some(config) = find(store, digest, size)? else { return Ok(None) };
    let Some(stored) = &config.stored else { return Ok(None) };
    let known = store.known_to(stored, digest, &proofs.right().reference)?;
    Ok((known == Known::InRepository || proofs.cover(digest)).then_some(config))
}
