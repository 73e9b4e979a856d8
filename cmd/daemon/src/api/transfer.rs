//! Images that come and go without a registry: archives that are imported, and exported.

use std::io::{self, BufWriter, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http::{HeaderValue, Response, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use imagevol_api::daemon::{EXPORTED_IMAGES, ExportedImage, ImportEvent};
use imagevol_api::oci::Reference;
use imagevol_base::blocking;
use imagevol_cri::{Holder, ImageReferences as _, Progress};
use imagevol_imageservice::chunks::{self, Sender};
use imagevol_imageservice::{Export, Import, Imported};
use tokio::sync::mpsc;

use super::images::{LINES, TELL, failure, lines, next_command};
use super::{Query, named};
use crate::http::{Answer, Failure};
use crate::node::Node;

/// What stands in the row of an import: no image's name.
const REFERENCE: &str = "(import)";
/// Bytes that are handed over at once.
const CHUNK: usize = 256 * 1024;
/// Pieces between disk and network.
const PIECES: usize = 4;

/// Why an import ended.
type Why = String;

/// Answers at once; lines follow until the import ends. A client that goes away ends it.
pub(super) fn import(node: &Node, query: &Query, body: Incoming) -> Result<Answer, Failure> {
    let import = Import { name: reference(query, "name")?, repository: repository(query)? };
    let (sender, receiver) = mpsc::channel(LINES);
    let node = node.clone();
    node.tasks().clone().spawn("import", async move {
        let (bytes, mut body) = (AtomicU64::new(0), body);
        let last = tokio::select! {
            ended = run(&node, &import, (&mut body, &bytes), &sender) => match ended {
                Ok(()) => ImportEvent::Done,
                Err(message) => ImportEvent::Failed { message },
            },
            () = tell(&bytes, &sender) => return,
        };
        drop(sender.send(last).await);
        // Whoever still sends reads the last line only if nobody closes the connection first.
        tokio::select! {
            () = drain(&mut body) => {}
            () = sender.closed() => {}
        }
    });
    Ok(lines(receiver))
}

/// Streams the archive; what is in it is told in a header, for digests may differ from those in the store.
pub(super) async fn export(node: &Node, query: &Query) -> Result<Answer, Failure> {
    let names = names(node, &references(query)).await?;
    if names.is_empty() {
        return Err(Failure::bad_request("reference is missing"));
    }
    let export = node.service.export(&names).await.map_err(|error| failure(&error))?;
    let images = images_of(&export)?;
    let (sender, receiver) = mpsc::channel(PIECES);
    node.tasks().spawn("export", blocking(move || write(export, &sender)));
    let pieces = stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
    let frames = pieces.map(|piece: io::Result<Bytes>| piece.map(Frame::data));
    let mut answer = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    answer.headers_mut().insert(EXPORTED_IMAGES, images);
    Ok(answer)
}

/// What is to be exported, each once: readers differ in what they make of an index with the same entry twice.
fn references(query: &Query) -> Vec<String> {
    let mut references = Vec::new();
    for (key, value) in &query.0 {
        if key == "reference" && !value.is_empty() && !references.contains(value) {
            references.push(value.clone());
        }
    }
    references
}

/// What the store knows them by. A digest in full may be given beside its beginning.
async fn names(node: &Node, references: &[String]) -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    for reference in references {
        let name = named::find(node, reference).await?.ok_or_else(|| named::no_image(reference))?.name;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

fn reference(query: &Query, key: &str) -> Result<Option<Reference>, Failure> {
    let given = query.get(key).filter(|text| !text.is_empty());
    let parse = |text| Reference::parse(text).map_err(|error| Failure::bad_request(format!("{key} {text:?}: {error}")));
    given.map(parse).transpose()
}

fn repository(query: &Query) -> Result<Option<Reference>, Failure> {
    let repository = reference(query, "repository")?;
    if repository.as_ref().is_some_and(|name| name.tag().is_some() || name.digest().is_some()) {
        return Err(Failure::bad_request("repository must be an image name without tag or digest"));
    }
    Ok(repository)
}

async fn run(
    node: &Node,
    import: &Import,
    (body, bytes): (&mut Incoming, &AtomicU64),
    sender: &mpsc::Sender<ImportEvent>,
) -> Result<(), Why> {
    let (feed, chunks) = chunks::channel();
    let ((), kept) = tokio::join!(forward(body, feed, bytes), node.service.keep_archive(chunks));
    let kept = kept.map_err(|error| error.to_string())?;
    let (holder, progress) = (next_command(), Progress::default());
    node.service.hold(&holder, REFERENCE).await.map_err(|error| error.to_string())?;
    let (told, images) = mpsc::unbounded_channel();
    let (imported, ()) = tokio::join!(
        node.service.import(&kept, import, (&holder, &progress), move |image| drop(told.send(image))),
        tell_images(images, sender)
    );
    release(node, &holder).await?;
    // On a thread that may block: its files go.
    blocking(move || drop(kept)).await;
    imported.map_err(|error| error.to_string())
}

async fn release(node: &Node, holder: &Holder) -> Result<(), Why> {
    node.service.release(holder).await.map_err(|error| error.to_string())
}

/// Hands the body on until it ends or breaks off, or the reader has failed, which says why itself.
async fn forward(body: &mut Incoming, feed: Sender, bytes: &AtomicU64) {
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return };
        let Ok(data) = frame.into_data() else { continue };
        bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        if feed.send(data).await.is_err() {
            return;
        }
    }
    // A reader that is gone has said why.
    drop(feed.end().await);
}

async fn drain(body: &mut Incoming) {
    while let Some(Ok(_)) = body.frame().await {}
}

async fn tell_images(mut images: mpsc::UnboundedReceiver<Imported>, sender: &mpsc::Sender<ImportEvent>) {
    while let Some(Imported { names, image }) = images.recv().await {
        // The client may have gone away: the import ends with it.
        drop(sender.send(ImportEvent::Imported { names, id: image.manifest, size: image.size }).await);
    }
}

/// Tells how many bytes have come in, until the client goes away.
async fn tell(bytes: &AtomicU64, sender: &mpsc::Sender<ImportEvent>) {
    let mut ticks = tokio::time::interval(TELL);
    loop {
        tokio::select! {
            () = sender.closed() => return,
            _ = ticks.tick() => {
                let progress = ImportEvent::Progress { bytes: bytes.load(Ordering::Relaxed) };
                match sender.try_send(progress) {
                    Err(mpsc::error::TrySendError::Closed(_)) => return,
                    Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => {}
                }
            }
        }
    }
}

fn images_of(export: &Export) -> Result<HeaderValue, Failure> {
    let image = |image: &imagevol_imageservice::ExportedImage| ExportedImage {
        reference: image.reference.clone(),
        image: image.image.clone(),
        exported: image.exported.clone(),
    };
    let images: Vec<ExportedImage> = export.images().iter().map(image).collect();
    let text = serde_json::to_string(&images).map_err(|error| Failure::internal(error.to_string()))?;
    HeaderValue::from_str(&text).map_err(|error| Failure::internal(error.to_string()))
}

/// The answer of an archive that could not be written to its end is broken off.
fn write(export: Export, sender: &mpsc::Sender<io::Result<Bytes>>) {
    let mut out = BufWriter::with_capacity(CHUNK, Pieces(sender.clone()));
    let Err(error) = export.write(&mut out) else { return };
    if error.kind() != io::ErrorKind::BrokenPipe {
        tracing::error!(error = &error as &dyn std::error::Error, "an export is broken off");
    }
    // What is in the buffer is not worth sending.
    drop(out.into_parts());
    drop(sender.blocking_send(Err(error)));
}

/// Writes to an answer.
struct Pieces(mpsc::Sender<io::Result<Bytes>>);

// === impl Pieces ===

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_exported_is_exported_once() {
        let query = Query::parse("reference=b%3A1&reference=a&reference=&reference=b%3A1&name=c");
        assert_eq!(references(&query), ["b:1", "a"]);
    }
}
