//! One piece of content: from the registry's stream, over a bounded channel, to the store on a blocking thread.

use std::io::{self, BufRead, Read};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf as _, Bytes};
use imagevol_api::auth::Credential;
use imagevol_api::oci::Reference;
use imagevol_cri::progress::Blob;
use imagevol_cri::{ImageServiceError, Result};
use imagevol_registry::{BlobStream, Registry};
use imagevol_store::{Form, Ingest, Store, StoreError, Stored};
use tokio::sync::mpsc;

use crate::error::{of_registry, of_store, of_task};
use crate::plan::LayerPlan;

/// Chunks between network and disk: at the usual 64 KiB a chunk this is 1 MiB a blob, which covers a slow fsync without being felt.
const CHUNKS: usize = 16;

/// What one fetch needs.
#[derive(Debug, Clone)]
pub(crate) struct Fetch {
    pub(crate) registry: Arc<Registry>,
    pub(crate) store: Store,
    pub(crate) reference: Reference,
    pub(crate) credential: Credential,
    pub(crate) layer: LayerPlan,
    pub(crate) progress: Blob,
}

/// Chunks as a reader. It ends with an error if the sender went away before the end was said.
struct Chunks {
    receiver: mpsc::Receiver<Chunk>,
    current: Bytes,
    ended: bool,
}

enum Chunk {
    Bytes(Bytes),
    End,
}

// === impl Fetch ===

impl Fetch {
    /// Makes the content present.
    pub(crate) async fn run(self) -> Result<Arc<Stored>> {
        let ingest = self.begin().await?;
        self.progress.set(ingest.offset());
        let failure = Arc::new(Mutex::new(None));
        let (sender, receiver) = mpsc::channel(CHUNKS);
        let stream =
            self.registry.fetch(&self.reference, &self.layer.descriptor, ingest.offset(), &self.credential).await;
        let stream = stream.map_err(|error| of_registry(&error))?;
        let writer = tokio::task::spawn_blocking(move || ingest.run(Chunks::new(receiver)));
        let sources = self.forward(stream, sender, &failure).await;
        let stored = writer.await.map_err(|error| of_task(&error))?;
        let network = failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (stored, network) {
            (Ok(stored), _) => {
                self.progress.finish();
                Ok(Arc::new(stored))
            }
            // The writer's error is only the echo of the network's.
            (Err(_), Some(error)) => Err(error),
            (Err(error), None) => {
                if matches!(error, StoreError::DigestMismatch { .. }) {
                    self.registry.distrust(&self.layer.descriptor.digest, &sources);
                }
                Err(of_store(&error))
            }
        }
    }

    async fn begin(&self) -> Result<Ingest> {
        let (store, descriptor, form) = (self.store.clone(), self.layer.descriptor.clone(), self.layer.form.clone());
        let begin = move || store.begin(&descriptor.digest, descriptor.size, form);
        tokio::task::spawn_blocking(begin).await.map_err(|error| of_task(&error))?.map_err(|error| of_store(&error))
    }

    /// Hands chunks on until the stream ends, fails, or the writer stops listening; says which hosts they came from.
    async fn forward(
        &self,
        mut stream: BlobStream,
        sender: mpsc::Sender<Chunk>,
        failure: &Mutex<Option<ImageServiceError>>,
    ) -> Vec<String> {
        while let Some(chunk) = stream.next().await {
            match chunk {
                Ok(bytes) => {
                    self.progress.add(bytes.len() as u64);
                    if sender.send(Chunk::Bytes(bytes)).await.is_err() {
                        return stream.sources().to_vec();
                    }
                }
                Err(error) => {
                    *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(of_registry(&error));
                    return stream.sources().to_vec();
                }
            }
        }
        // A writer that is gone has said why.
        drop(sender.send(Chunk::End).await);
        stream.sources().to_vec()
    }
}

// === impl Chunks ===

impl Chunks {
    fn new(receiver: mpsc::Receiver<Chunk>) -> Self {
        Self { receiver, current: Bytes::new(), ended: false }
    }
}

impl Read for Chunks {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(out.len());
        for (to, from) in out.iter_mut().zip(available) {
            *to = *from;
        }
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Chunk::Bytes(bytes)) => self.current = bytes,
                Some(Chunk::End) => self.ended = true,
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "download was interrupted")),
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, amount: usize) {
        self.current.advance(amount.min(self.current.len()));
    }
}

/// Content that is there already.
pub(crate) fn find(store: &Store, layer: &LayerPlan) -> Result<Option<Stored>, StoreError> {
    use imagevol_store::ContentKey;
    match &layer.form {
        Form::Blob => store.find(&ContentKey::Blob(layer.descriptor.digest.clone())),
        // The config's promise counts: a layer of that diffID is the layer, however it was compressed.
        Form::Layer { diff_id: Some(diff_id), .. } => store.find(&ContentKey::Layer(diff_id.clone())),
        Form::Layer { diff_id: None, .. } => store.find_layer(&layer.descriptor.digest),
    }
}
