//! Images that lists keep present, and those that are fetched ahead by command.

use std::time::Duration;

use http::Method;
use hyper::body::Incoming;
use imagevol_api::core::defaults::default_pull_policy;
use imagevol_api::daemon::{PrefetchList, PrefetchPhase, PrefetchRequest, Prefetched, PullEvent};
use imagevol_api::oci::Reference;
use imagevol_base::{Digester, Holder};
use imagevol_cri::{ImageReferences as _, Progress};
use imagevol_images::PullPolicy;
use imagevol_prefetch::{Phase, Shown};
use imagevol_store::{ImageRecord, Store, Terms, Until};
use tokio::sync::mpsc;

use super::holders::Clock;
use super::images::{LINES, failure, lines, pull_and_find, store, tell};
use super::node::blobs;
use super::{Query, read_body};
use crate::http::{Answer, Failure, json, no_such_route, success};
use crate::node::Node;

/// How long a row lasts at least while its pull runs: after a kill, nobody else would take it away.
const WHILE_PULLING: Duration = Duration::from_hours(24);

/// `/prefetch`.
pub(super) async fn route(node: &Node, method: &Method, query: &Query, body: Incoming) -> Result<Answer, Failure> {
    match *method {
        Method::GET => list(node).await,
        Method::POST => begin(node, &read_body(body).await?),
        Method::DELETE => forget(node, query.get("reference").unwrap_or_default()).await,
        _ => Ok(no_such_route(method, "/prefetch")),
    }
}

async fn list(node: &Node) -> Result<Answer, Failure> {
    let overview = node.prefetch();
    let mut items: Vec<_> = overview.items.iter().map(shown).collect();
    items.extend(by_command(node).await?);
    Ok(json(&PrefetchList { items, problems: overview.problems.clone() }))
}

fn shown(item: &Shown) -> Prefetched {
    let phase = match item.phase {
        Phase::Waiting => PrefetchPhase::Waiting,
        Phase::Pulling => PrefetchPhase::Pulling,
        Phase::Present => PrefetchPhase::Present,
        Phase::Failed => PrefetchPhase::Failed,
        Phase::Ended => PrefetchPhase::Ended,
    };
    Prefetched {
        list: Some(item.key.list.to_string()),
        reference: item.written.clone(),
        phase,
        image: item.image.as_ref().map(|image| image.digest().clone()),
        message: item.message.clone(),
        next_pull: item.next_pull.map(|time| super::holders::wall(time.as_second())),
        expires: item.expires.map(|time| super::holders::wall(time.as_second())),
        blobs: item.progress.as_ref().map(blobs).unwrap_or_default(),
    }
}

/// The rows of commands. One without an image is being pulled.
async fn by_command(node: &Node) -> Result<Vec<Prefetched>, Failure> {
    let (rows, clock) = (store(node, Store::references).await?, Clock::of(node));
    let pulls = node.service.running_pulls();
    let of_command =
        |holder: &Holder| matches!(holder, Holder::Prefetch { list, .. } if list.as_str() == Holder::PREFETCH_COMMAND);
    let rows = rows.into_iter().filter(|(holder, row)| of_command(holder) && !row.is_over(clock.now()));
    let prefetched = rows.map(|(_, row)| {
        let pull = pulls.iter().find(|pull| row.image.is_none() && pull.reference == row.reference);
        Prefetched {
            list: None,
            phase: match (&row.image, pull) {
                (Some(_), _) => PrefetchPhase::Present,
                (None, Some(_)) => PrefetchPhase::Pulling,
                (None, None) => PrefetchPhase::Waiting,
            },
            reference: row.reference,
            image: row.image,
            message: None,
            next_pull: None,
            expires: row.expires.filter(|_| row.until == Until::Used).map(|expires| clock.tell(expires)),
            blobs: pull.map(|pull| blobs(&pull.progress)).unwrap_or_default(),
        }
    });
    Ok(prefetched.collect())
}

/// Answers at once; lines follow until the pull ends. A client that goes away gives it up.
fn begin(node: &Node, body: &[u8]) -> Result<Answer, Failure> {
    let request: PrefetchRequest =
        serde_json::from_slice(body).map_err(|error| Failure::bad_request(error.to_string()))?;
    if request.keep_seconds == 0 {
        return Err(Failure::bad_request("keepSeconds: Invalid value: 0: must be greater than zero"));
    }
    let reference = reference_of(&request.reference)?;
    let (sender, receiver) = mpsc::channel::<PullEvent>(LINES);
    let node = node.clone();
    let supervisor = node.tasks().clone();
    supervisor.spawn("prefetch command", async move {
        let keep = Duration::from_secs(request.keep_seconds);
        if let Some(last) = fetch(&node, &reference, keep, &sender).await {
            // A client that has gone away needs no last line.
            drop(sender.send(last).await);
        }
    });
    Ok(lines(receiver))
}

fn reference_of(text: &str) -> Result<Reference, Failure> {
    let parsed = Reference::parse(text).map_err(|error| Failure::bad_request(format!("{text:?}: {error}")))?;
    Ok(parsed.with_default_tag())
}

fn holder_of(reference: &Reference) -> Result<Holder, Failure> {
    let list = Holder::PREFETCH_COMMAND.parse();
    let list = list.map_err(|error: imagevol_api::names::NameError| Failure::internal(error.to_string()))?;
    Ok(Holder::Prefetch { list, reference: Digester::sha256(reference.to_string().as_bytes()) })
}

/// The last line; `None` if nobody waits for it.
async fn fetch(
    node: &Node,
    reference: &Reference,
    keep: Duration,
    sender: &mpsc::Sender<PullEvent>,
) -> Option<PullEvent> {
    let progress = Progress::default();
    let fetched = tokio::select! {
        fetched = held(node, reference, keep, &progress) => Some(fetched),
        () = tell(&progress, sender) => None,
    };
    match fetched {
        Some(Ok(image)) => {
            Some(PullEvent::Pulled { reference: reference.to_string(), id: image.manifest, size: image.size })
        }
        other => {
            let message = match give_up(node, reference, keep).await {
                Ok(()) => other?.err()?,
                Err(message) => message,
            };
            Some(PullEvent::Failed { message })
        }
    }
}

/// Held while it is pulled; then the time begins for which it waits for a pod.
async fn held(node: &Node, reference: &Reference, keep: Duration, progress: &Progress) -> Result<ImageRecord, String> {
    let holder = holder_of(reference).map_err(|error| error.message())?;
    let text = reference.to_string();
    let pulling = Terms { lasts: Some(keep.max(WHILE_PULLING)), until: Until::Released };
    node.service.hold_for(&holder, &text, pulling).await.map_err(|error| error.to_string())?;
    let policy = default_pull_policy(&text).parse().unwrap_or(PullPolicy::Always);
    let image = pull_and_find(node, reference, (&holder, policy), progress).await?;
    node.service.hold_for(&holder, &text, unused(keep)).await.map_err(|error| error.to_string())?;
    Ok(image)
}

/// After a failure: an image of an earlier command stays as long as this one asked for, else there is nothing to keep.
async fn give_up(node: &Node, reference: &Reference, keep: Duration) -> Result<(), String> {
    let holder = holder_of(reference).map_err(|error| error.message())?;
    let rows = store(node, Store::references).await.map_err(|error| error.message())?;
    let is_bound = rows.iter().any(|(known, row)| *known == holder && row.image.is_some());
    let done = if is_bound {
        node.service.hold_for(&holder, &reference.to_string(), unused(keep)).await
    } else {
        node.service.release(&holder).await
    };
    done.map_err(|error| error.to_string())
}

fn unused(keep: Duration) -> Terms {
    Terms { lasts: Some(keep), until: Until::Used }
}

async fn forget(node: &Node, text: &str) -> Result<Answer, Failure> {
    let reference = reference_of(text)?;
    let holder = holder_of(&reference)?;
    let rows = store(node, Store::references).await?;
    if !rows.iter().any(|(known, _)| *known == holder) {
        return Err(Failure::not_found(format!(
            "{text:?} was not fetched ahead by command, or was used or has expired"
        )));
    }
    node.service.release(&holder).await.map_err(|error| failure(&error))?;
    Ok(success())
}
