//! Images: listed, inspected, pulled and removed by command.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use imagevol_api::daemon::{
    ImageDetail, ImageList, ImageSummary, ImageUser, LayerDetail, PullEvent, PullRequest, RemovedImage,
};
use imagevol_api::oci::{Digest, Reference};
use imagevol_base::Holder;
use imagevol_cri::{ImageReferences as _, ImageServiceError, Progress};
use imagevol_images::{NodePull, PullPolicy};
use imagevol_store::{ImageKind, ImageRecord, LayerRecord, StoreError};
use serde::Serialize;
use tokio::sync::mpsc;

use super::holders::{holder_name, user_names};
use super::node::blobs;
use super::{Query, named, read_body, transfer};
use crate::http::{Answer, Failure, json, no_such_route};
use crate::node::Node;

/// How often a pull tells how far it is: as often as an eye sees a bar move.
pub(super) const TELL: Duration = Duration::from_millis(200);
/// Lines that a slow reader may be behind; then older ones are all the same to it.
pub(super) const LINES: usize = 8;

/// Tells concurrent commands apart.
static NEXT_COMMAND: AtomicU64 = AtomicU64::new(1);

/// Below `/images`.
pub(super) async fn route(
    node: &Node,
    method: &Method,
    path: &[&str],
    query: &Query,
    body: Incoming,
) -> Result<Answer, Failure> {
    match (method, path) {
        (&Method::GET, []) => list(node).await,
        (&Method::GET, ["inspect"]) => inspect(node, reference_of(query)?).await,
        (&Method::DELETE, []) => remove(node, reference_of(query)?).await,
        (&Method::POST, ["import"]) => transfer::import(node, query, body),
        (&Method::GET, ["export"]) => transfer::export(node, query).await,
        (&Method::POST, ["pull"]) => pull(node, &read_body(body).await?),
        (method, path) => Ok(no_such_route(method, &format!("/images/{}", path.join("/")))),
    }
}

fn reference_of(query: &Query) -> Result<&str, Failure> {
    query
        .get("reference")
        .filter(|reference| !reference.is_empty())
        .ok_or_else(|| Failure::bad_request("reference is missing"))
}

async fn list(node: &Node) -> Result<Answer, Failure> {
    let users = user_names(node);
    let images = store(node, move |store| {
        let mut images = store.image_summaries()?;
        images.sort_by_cached_key(|image| (std::cmp::Reverse(image.pulled_at), image.manifest.clone()));
        Ok(images.into_iter().map(|image| summary(image, &users)).collect())
    });
    Ok(json(&ImageList { items: images.await? }))
}

async fn inspect(node: &Node, reference: &str) -> Result<Answer, Failure> {
    let image = named::find(node, reference).await?.ok_or_else(|| named::no_image(reference))?.image;
    let (users, id) = (user_names(node), image.manifest.clone());
    let manifest = store(node, move |store| Ok(store.read_blob(&id).map_err(|error| unreadable(&id, error)))).await??;
    let detail = store(node, move |store| {
        let known = store.image_summaries()?.into_iter().find(|known| known.manifest == image.manifest);
        let gone = || StoreError::NoImage(image.manifest.to_string());
        Ok(ImageDetail {
            summary: summary(known.ok_or_else(gone)?, &users),
            media_type: image.media_type.clone(),
            artifact_type: image.artifact_type.clone(),
            annotations: image.annotations.clone(),
            layers: image.layers.iter().map(layer).collect(),
            // It was parsed as JSON before it was stored.
            manifest: serde_json::from_slice(&manifest).unwrap_or_default(),
        })
    });
    Ok(json(&detail.await?))
}

/// A manifest is a file as others are: somebody may have deleted it.
fn unreadable(manifest: &Digest, error: StoreError) -> Failure {
    if matches!(&error, StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound) {
        return Failure::internal(format!(
            "manifest {manifest} is not on the disk any more: run `imagevol fsck --repair`"
        ));
    }
    of_store(error)
}

async fn remove(node: &Node, reference: &str) -> Result<Answer, Failure> {
    let name = named::find(node, reference).await?.ok_or_else(|| named::no_image(reference))?.name;
    let removed = match node.service.remove_image(&name).await {
        Err(ImageServiceError::InUse { holders }) => return Err(in_use(node, reference, &holders)),
        other => other.map_err(|error| failure(&error))?,
    };
    // Records of images that are gone say nothing any more; a failure leaves them, and they are pruned the next time.
    if let Err(error) = node.images.prune_records().await {
        tracing::warn!(%error, "pull records were not pruned");
    }
    Ok(json(&RemovedImage { untagged: removed.names, deleted: removed.images, freed_bytes: removed.freed_bytes }))
}

fn in_use(node: &Node, reference: &str, holders: &[String]) -> Failure {
    let names = user_names(node);
    // What is no holder is a pin, which has its name already.
    let name = |key: &String| key.parse().map_or_else(|_| key.clone(), |holder| holder_name(&holder));
    let users: Vec<String> = holders.iter().map(|key| names.get(key).cloned().unwrap_or_else(|| name(key))).collect();
    Failure::new(StatusCode::CONFLICT, "Conflict", format!("image {reference:?} is in use by {}", users.join(", ")))
}

/// Answers at once; lines follow until the pull ends. A client that goes away ends its pull, unless others want it.
fn pull(node: &Node, body: &[u8]) -> Result<Answer, Failure> {
    let request: PullRequest = serde_json::from_slice(body).map_err(|error| Failure::bad_request(error.to_string()))?;
    let (sender, receiver) = mpsc::channel::<PullEvent>(LINES);
    let node = node.clone();
    let supervisor = node.tasks().clone();
    supervisor.spawn("pull command", async move {
        let progress = Progress::default();
        let last = tokio::select! {
            last = run(&node, &request.reference, &progress) => last,
            () = tell(&progress, &sender) => return,
        };
        // A client that has gone away needs no last line.
        drop(sender.send(last).await);
    });
    Ok(lines(receiver))
}

/// Tells progress until the client goes away.
pub(super) async fn tell(progress: &Progress, sender: &mpsc::Sender<PullEvent>) {
    let mut ticks = tokio::time::interval(TELL);
    loop {
        tokio::select! {
            () = sender.closed() => return,
            _ = ticks.tick() => match sender.try_send(PullEvent::Progress { blobs: blobs(progress) }) {
                Err(mpsc::error::TrySendError::Closed(_)) => return,
                Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => {}
            },
        }
    }
}

async fn run(node: &Node, reference: &str, progress: &Progress) -> PullEvent {
    match pull_held(node, reference, progress).await {
        Ok(event) => event,
        Err(message) => PullEvent::Failed { message },
    }
}

/// A holder of its own for a command.
pub(super) fn next_command() -> Holder {
    Holder::Command { id: NEXT_COMMAND.fetch_add(1, Ordering::Relaxed) }
}

/// The image is held while the command runs, and stays unheld afterwards: a pull by command promises nothing more.
async fn pull_held(node: &Node, written: &str, progress: &Progress) -> Result<PullEvent, String> {
    let reference = Reference::parse(written).map_err(|error| format!("{written:?}: {error}"))?.with_default_tag();
    let holder = next_command();
    node.service.hold(&holder, &reference.to_string()).await.map_err(|error| error.to_string())?;
    let pulled = pull_and_find(node, &reference, (&holder, PullPolicy::Always), progress).await;
    node.service.release(&holder).await.map_err(|error| error.to_string())?;
    let image = pulled?;
    Ok(PullEvent::Pulled { reference: reference.to_string(), id: image.manifest, size: image.size })
}

pub(super) async fn pull_and_find(
    node: &Node,
    reference: &Reference,
    (holder, policy): (&Holder, PullPolicy),
    progress: &Progress,
) -> Result<ImageRecord, String> {
    let wanted = NodePull { reference, holder, policy, progress };
    let id = node.images.pull_for_node(wanted).await.map_err(|error| error.message())?;
    let found = node.service.find_image(&id.to_string()).await.map_err(|error| error.to_string())?;
    found.ok_or_else(|| format!("image {id} is gone again"))
}

/// An answer of a line of JSON for each event, until the sender goes.
pub(super) fn lines<T: Serialize + Send + 'static>(receiver: mpsc::Receiver<T>) -> Answer {
    let events = stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
    let frames = events.map(|event| {
        let mut line = serde_json::to_vec(&event).unwrap_or_default();
        line.push(b'\n');
        Ok(Frame::data(Bytes::from(line)))
    });
    let mut answer = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    answer
}

fn summary(image: imagevol_store::ImageSummary, users: &BTreeMap<String, String>) -> ImageSummary {
    let (repo_digests, repo_tags) = image.names.into_iter().partition(|name| name.contains('@'));
    let user = |(holder, _): (Holder, _)| {
        let key = holder.to_string();
        ImageUser { name: users.get(&key).cloned().unwrap_or_else(|| holder_name(&holder)) }
    };
    ImageSummary {
        id: image.manifest,
        repo_tags,
        repo_digests,
        kind: kind_name(image.kind).to_owned(),
        size: image.size,
        pulled_at: jiff::Timestamp::from_second(image.pulled_at).map(|time| time.to_string()).unwrap_or_default(),
        used_by: image.holders.into_iter().map(user).collect(),
        pins: image.pins.iter().map(ToString::to_string).collect(),
    }
}

fn kind_name(kind: ImageKind) -> &'static str {
    match kind {
        ImageKind::Image => "Image",
        ImageKind::Artifact => "Artifact",
    }
}

fn layer(layer: &LayerRecord) -> LayerDetail {
    LayerDetail {
        digest: layer.digest.clone(),
        media_type: layer.media_type.clone(),
        size: layer.size,
        stored_as: layer.content.digest().clone(),
        stored_size: layer.stored_size,
        title: layer.title.clone(),
    }
}

pub(super) fn failure(error: &ImageServiceError) -> Failure {
    let message = error.to_string();
    if matches!(error, ImageServiceError::NotFound { .. }) {
        Failure::not_found(message)
    } else {
        Failure::internal(message)
    }
}

/// A call of the store, on a blocking thread.
pub(super) async fn store<T: Send + 'static>(
    node: &Node,
    call: impl FnOnce(&imagevol_store::Store) -> imagevol_store::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    let store = node.service.store().clone();
    let result = tokio::task::spawn_blocking(move || call(&store)).await;
    let result = result.map_err(|error| Failure::internal(error.to_string()))?;
    result.map_err(of_store)
}

fn of_store(error: StoreError) -> Failure {
    Failure::internal(format!("{:#}", anyhow::Error::new(error)))
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    #[test]
    fn a_manifest_that_is_gone_is_named_by_its_digest() {
        let manifest: Digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
        let read = |kind| StoreError::Io { op: "read", path: "/s/blobs/0".into(), source: Error::from(kind) };
        let said = format!("manifest {manifest} is not on the disk any more: run `imagevol fsck --repair`");
        assert_eq!(unreadable(&manifest, read(ErrorKind::NotFound)).message(), said);
        let said = "cannot read /s/blobs/0: permission denied";
        assert_eq!(unreadable(&manifest, read(ErrorKind::PermissionDenied)).message(), said);
    }
}
