//! What the registry has stored and seen.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use imagevol_api::oci::Digest;
use imagevol_base::Digester;

use super::auth::{Auth, AuthMode};
use super::{Content, Faults, Request};

pub(super) struct State {
    pub(super) url: String,
    pub(super) faults: Faults,
    store: Mutex<Store>,
}

#[derive(Debug, Clone)]
pub(super) struct Manifest {
    pub(super) media_type: String,
    pub(super) bytes: Bytes,
    pub(super) digest: Digest,
}

pub(super) struct Store {
    pub(super) auth: Auth,
    pub(super) log: Vec<Request>,
    repositories: HashMap<String, Repository>,
}

#[derive(Default)]
struct Repository {
    tags: BTreeMap<String, Digest>,
    manifests: BTreeMap<Digest, Manifest>,
    blobs: HashMap<Digest, Content>,
}

// === impl State ===

impl State {
    pub(super) fn new(url: String, auth: AuthMode) -> Self {
        let store = Store { auth: Auth::new(auth), log: Vec::new(), repositories: HashMap::new() };
        Self { url, faults: Faults::default(), store: Mutex::new(store) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Manifest ===

impl Manifest {
    pub(super) fn new(media_type: &str, bytes: Bytes) -> Self {
        Self { media_type: media_type.to_owned(), digest: Digester::sha256(&bytes), bytes }
    }
}

// === impl Store ===

impl Store {
    pub(super) fn tag(&mut self, repository: &str, tag: &str, digest: &Digest) {
        self.repository(repository).tags.insert(tag.to_owned(), digest.clone());
    }

    pub(super) fn remove_tag(&mut self, repository: &str, tag: &str) {
        self.repository(repository).tags.remove(tag);
    }

    pub(super) fn put_manifest(&mut self, repository: &str, manifest: Manifest) {
        self.repository(repository).manifests.insert(manifest.digest.clone(), manifest);
    }

    pub(super) fn put_blob(&mut self, repository: &str, digest: &Digest, content: Content) {
        self.repository(repository).blobs.insert(digest.clone(), content);
    }

    pub(super) fn remove_blob(&mut self, repository: &str, digest: &Digest) {
        self.repository(repository).blobs.remove(digest);
    }

    pub(super) fn manifest(&self, repository: &str, reference: &str) -> Option<Manifest> {
        let repository = self.repositories.get(repository)?;
        let digest = reference.parse().ok().or_else(|| repository.tags.get(reference).cloned())?;
        repository.manifests.get(&digest).cloned()
    }

    pub(super) fn blob(&self, repository: &str, digest: &str) -> Option<Content> {
        self.repositories.get(repository)?.blobs.get(&digest.parse::<Digest>().ok()?).cloned()
    }

    /// Tags after `last`, in order.
    pub(super) fn tags(&self, repository: &str, last: &str) -> Option<Vec<String>> {
        let repository = self.repositories.get(repository)?;
        Some(repository.tags.keys().filter(|tag| tag.as_str() > last).cloned().collect())
    }

    /// Manifests whose `subject` is `digest`, as parsed documents.
    pub(super) fn referrers(&self, repository: &str, digest: &str) -> Vec<(Manifest, serde_json::Value)> {
        let Some(repository) = self.repositories.get(repository) else { return Vec::new() };
        let parsed = repository.manifests.values().filter_map(|manifest| {
            Some((manifest.clone(), serde_json::from_slice::<serde_json::Value>(&manifest.bytes).ok()?))
        });
        parsed
            .filter(|(_, document)| {
                document.pointer("/subject/digest").and_then(|value| value.as_str()) == Some(digest)
            })
            .collect()
    }

    fn repository(&mut self, name: &str) -> &mut Repository {
        self.repositories.entry(name.to_owned()).or_default()
    }
}
