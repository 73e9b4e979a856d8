//! One piece of content: from the registry's stream, over a bounded channel, to the store on a blocking thread.

use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;

use imagevol_api::oci::{Digest, Reference};
use imagevol_base::SingleFlight;
use imagevol_cri::{ImageServiceError, Result};
use imagevol_registry::{BlobStream, Registry, RegistryError};
use imagevol_store::{Compression, ContentKey, Form, Ingest, Store, StoreError, Stored};

use crate::chunks::{Sender, channel};
use crate::downloads::{Download, Downloads};
use crate::error::{content_of, of_registry, of_store, of_task};
use crate::plan::LayerPlan;
use crate::right::Right;

/// What makes two fetches one: the same bytes, kept in the same way and held against the same promises.
///
/// Of one blob, an image may say a diffID that is wrong and an artifact none: neither may get what the other was checked for. And
/// what one registry gives says nothing of another: see `EmbeddedImageService::present`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct FetchKey {
    registry: String,
    digest: Digest,
    size: u64,
    form: Form,
}

/// What one fetch needs.
#[derive(Debug, Clone)]
pub(crate) struct Fetch {
    pub(crate) registry: Arc<Registry>,
    pub(crate) store: Store,
    pub(crate) right: Right,
    pub(crate) layer: LayerPlan,
    pub(crate) download: Arc<Download>,
    pub(crate) downloads: Arc<Downloads>,
}

/// Content that a download, or somebody before it, has made present.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    pub(crate) stored: Arc<Stored>,
    /// With whose right.
    pub(crate) by: Right,
}

/// Why a fetch failed, for all that wait for it, and whom it asked.
#[derive(Debug, Clone)]
pub(crate) struct FetchError {
    pub(crate) error: ImageServiceError,
    registry: String,
}

/// Why one attempt failed.
enum Failure {
    /// Registry, disk or database.
    Step(ImageServiceError),
    /// The bytes that came from these hosts are not what was promised.
    Content { error: Box<StoreError>, hosts: Vec<String> },
}

// === impl FetchKey ===

impl FetchKey {
    pub(crate) fn of(layer: &LayerPlan, from: &Reference) -> Self {
        let descriptor = &layer.descriptor;
        let (registry, digest, form) = (from.domain().to_owned(), descriptor.digest.clone(), layer.form.clone());
        Self { registry, digest, size: descriptor.size, form }
    }

    /// Of what comes from no registry.
    pub(crate) fn local(layer: &LayerPlan) -> Self {
        let descriptor = &layer.descriptor;
        let (digest, form) = (descriptor.digest.clone(), layer.form.clone());
        Self { registry: String::new(), digest, size: descriptor.size, form }
    }

    /// Of a file.
    #[cfg(test)]
    pub(crate) fn of_blob(registry: &str, digest: &Digest, size: u64) -> Self {
        Self { registry: registry.to_owned(), digest: digest.clone(), size, form: Form::Blob }
    }

    pub(crate) fn digest(&self) -> &Digest {
        &self.digest
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }
}

// === impl FetchError ===

impl FetchError {
    /// An error of whoever asked for `reference`.
    pub(crate) fn new(error: ImageServiceError, reference: &Reference) -> Self {
        Self { error, registry: reference.domain().to_owned() }
    }

    /// Whether somebody else, who asks for `reference`, may succeed where this fetch failed.
    pub(crate) fn spares(&self, reference: &Reference) -> bool {
        match &self.error {
            // Of the repository, and of who asks.
            ImageServiceError::Denied { .. } | ImageServiceError::NotFound { .. } => true,
            ImageServiceError::Unavailable { .. } | ImageServiceError::Invalid { .. } => {
                self.registry != reference.domain()
            }
            ImageServiceError::SignatureValidation { .. }
            | ImageServiceError::InUse { .. }
            | ImageServiceError::SubPath { .. }
            | ImageServiceError::Cancelled
            | ImageServiceError::NoRoom { .. }
            | ImageServiceError::Node { .. } => false,
        }
    }
}

// === impl Fetch ===

impl Fetch {
    /// Makes the content present.
    pub(crate) async fn run(&self) -> Result<Arc<Stored>, FetchError> {
        let stored = match self.attempt().await {
            Err(Failure::Content { error, hosts }) if self.is_worth_another(&error, &hosts).await => {
                tracing::warn!(digest = %self.layer.descriptor.digest, %error, ?hosts, "wrong content is fetched anew");
                self.attempt().await
            }
            other => other,
        };
        stored.map(Arc::new).map_err(|failure| self.error(failure.of_layer(&self.layer.descriptor.digest)))
    }

    /// An error of this fetch.
    pub(crate) fn error(&self, error: ImageServiceError) -> FetchError {
        FetchError::new(error, &self.right.reference)
    }

    /// Wrong bytes of an earlier try are gone now. And of several hosts, one that served wrong bytes is asked last from now on.
    async fn is_worth_another(&self, error: &StoreError, hosts: &[String]) -> bool {
        if matches!(error, StoreError::Resumed { .. }) {
            return true;
        }
        if !matches!(error, StoreError::DigestMismatch { .. }) {
            return false;
        }
        let endpoints = self.registry.endpoints(&self.right.reference).await.unwrap_or_default();
        let mut others = endpoints.iter().filter(|host| host.capabilities.pull);
        others.any(|host| hosts.iter().all(|asked| asked != host.authority()))
    }

    async fn attempt(&self) -> Result<Stored, Failure> {
        let ingest = self.begin().await?;
        self.download.progress.set(ingest.offset());
        let descriptor = &self.layer.descriptor;
        let opened =
            self.registry.fetch(&self.right.reference, descriptor, ingest.offset(), &self.right.credential).await;
        let mut stream = match opened {
            Ok(stream) => stream,
            Err(error) => {
                // It clears up after itself, on disk.
                tokio::task::spawn_blocking(move || drop(ingest)).await.map_err(|error| of_task(&error))?;
                return Err(of_registry(&error).into());
            }
        };
        let (sender, chunks) = channel();
        // Should this future be dropped, the channel is too, and the writer ends with what it has.
        let writer = tokio::task::spawn_blocking(move || ingest.run(chunks));
        let network = self.forward(&mut stream, sender).await;
        let stored = writer.await.map_err(|error| of_task(&error))?;
        self.settle(stored, network, stream.sources())
    }

    async fn begin(&self) -> Result<Ingest> {
        let (store, descriptor, form) = (self.store.clone(), self.layer.descriptor.clone(), self.layer.form.clone());
        let registry = self.right.reference.domain().to_owned();
        let begin = move || store.begin(&descriptor.digest, descriptor.size, form);
        blocking(move || Ok(begin()?.given_by(&registry))).await
    }

    /// Hands chunks on until the stream ends or fails, or the writer has failed, which says why itself.
    async fn forward(&self, stream: &mut BlobStream, sender: Sender) -> Result<(), RegistryError> {
        loop {
            let chunk = tokio::select! {
                chunk = stream.next() => chunk,
                () = sender.gone() => return Ok(()),
            };
            let Some(chunk) = chunk else { break };
            let bytes = chunk?;
            self.download.progress.add(bytes.len() as u64);
            if sender.send(bytes).await.is_err() {
                return Ok(());
            }
        }
        // A writer that is gone has said why.
        drop(sender.end().await);
        Ok(())
    }

    fn settle(
        &self,
        stored: Result<Stored, StoreError>,
        network: Result<(), RegistryError>,
        hosts: &[String],
    ) -> Result<Stored, Failure> {
        match (stored, network) {
            (Ok(stored), _) => Ok(stored),
            // The writer's error is only the echo of the network's.
            (Err(StoreError::Source { .. }), Err(error)) => Err(of_registry(&error).into()),
            (Err(error), _) if error.is_content() || matches!(error, StoreError::Resumed { .. }) => {
                if matches!(error, StoreError::DigestMismatch { .. }) {
                    self.registry.distrust(&self.layer.descriptor.digest, hosts);
                }
                Err(Failure::Content { error: Box::new(error), hosts: hosts.to_vec() })
            }
            (Err(error), _) => {
                if let Some(unpacked) = error.unpacked() {
                    self.downloads.learn(&self.layer.descriptor.digest, unpacked);
                }
                Err(of_store(&error).into())
            }
        }
    }
}

// === impl Failure ===

impl From<ImageServiceError> for Failure {
    fn from(error: ImageServiceError) -> Self {
        Self::Step(error)
    }
}

impl Failure {
    fn of_layer(self, layer: &Digest) -> ImageServiceError {
        match self {
            Self::Step(error) => error,
            Self::Content { error, .. } if error.is_content() => content_of(layer, &error),
            Self::Content { error, .. } => of_store(&error),
        }
    }
}

/// Joins whoever fetches the same for himself. If that fails where this one, who asks for `reference`, may not, it is this one's
/// turn, or another's that waits.
pub(crate) async fn join<K, T, F>(
    flights: &SingleFlight<K, Result<T, FetchError>>,
    key: &K,
    reference: &Reference,
    start: impl Fn() -> F,
) -> Result<T>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
    F: Future<Output = Result<T, FetchError>> + Send + 'static,
{
    loop {
        let mut mine = false;
        let flight = || {
            mine = true;
            start()
        };
        let result = flights.run(key.clone(), flight).await;
        match result.unwrap_or_else(|| Err(FetchError::new(ImageServiceError::Cancelled, reference))) {
            Ok(fetched) => return Ok(fetched),
            Err(failed) if !mine && failed.spares(reference) => {}
            Err(failed) => return Err(failed.error),
        }
    }
}

/// Content that is here already, if it is what the descriptor, and for a layer of an image the config, say of it.
///
/// A config's word for a layer alone counts for nothing: whoever writes one may name anybody's layer.
pub(crate) fn find(store: &Store, layer: &LayerPlan) -> Result<Option<Stored>, StoreError> {
    let descriptor = &layer.descriptor;
    let found = match &layer.form {
        Form::Blob => store.find(&ContentKey::Blob(descriptor.digest.clone()))?,
        Form::Layer { .. } => store.find_layer(&descriptor.digest)?,
    };
    let as_promised = |stored: &Stored| match &layer.form {
        Form::Layer { diff_id: Some(diff_id), .. } => stored.lease.key().digest() == diff_id,
        Form::Blob | Form::Layer { diff_id: None, .. } => true,
    };
    let as_it_comes = matches!(&layer.form, Form::Blob | Form::Layer { compression: Compression::None, .. });
    let as_long = |stored: &Stored| !as_it_comes || stored.content.size == descriptor.size;
    // What is not is fetched, and refused by who checks what comes.
    Ok(found.filter(|stored| as_promised(stored) && as_long(stored)))
}

async fn blocking<T: Send + 'static>(call: impl FnOnce() -> Result<T, StoreError> + Send + 'static) -> Result<T> {
    let result = tokio::task::spawn_blocking(call).await;
    result.map_err(|error| of_task(&error))?.map_err(|error| of_store(&error))
}
