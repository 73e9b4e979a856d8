//! Whether there is room for an image: looked at after its manifest is known and before a byte of its layers is fetched.

use std::sync::Arc;

use imagevol_api::oci::Reference;
use imagevol_base::collection::{Collection, Execution, Goal, NotYet, Turn, Wish};
use imagevol_base::size::binary;
use imagevol_cri::{ImageCollector as _, ImageServiceError, Result};
use imagevol_store::{Compression, Form, Store, StoreError};
use tokio::sync::oneshot;

use crate::EmbeddedImageService;
use crate::downloads::{Downloads, Share};
use crate::fetch::Fetch;

/// How often images are removed for one pull: what others take meanwhile may have to be made room for once more.
const COLLECTIONS: usize = 2;

/// What an image still takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) share: Share,
    pub(crate) precision: Precision,
}

/// How well it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precision {
    /// Everything is stored as it comes.
    Exact,
    /// Something is compressed: what it unpacks to is known when it has been.
    AtLeast,
}

/// How the disk and the quota stand at one moment, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    /// Free on the file system.
    pub(crate) free: u64,
    /// Of these, what pulls leave (`limits.minFreeBytes`).
    pub(crate) kept: u64,
    /// What images take.
    pub(crate) stored: u64,
    /// What they may take (`limits.maxStoreBytes`).
    pub(crate) quota: Option<u64>,
    /// What other pulls were promised.
    pub(crate) promised: Share,
}

/// Why an image does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shortage {
    /// What stands against it; the quota only if the disk does not.
    bound: Bound,
    /// What must be freed first, bytes.
    pub(crate) missing: u64,
    need: Need,
    room: Room,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    Disk,
    Quota(u64),
}

/// Whether an image fits. Pure.
pub(crate) fn admit(need: Need, room: Room) -> Result<(), Shortage> {
    if need.share == Share::default() {
        // Nothing is fetched: whatever the disk holds, it becomes no fuller.
        return Ok(());
    }
    let sum = |parts: [u64; 3]| parts.into_iter().fold(0, u64::saturating_add);
    let disk = sum([need.share.unwritten, room.promised.unwritten, room.kept]).saturating_sub(room.free);
    let stored = sum([need.share.whole, room.promised.whole, room.stored]);
    let quota = room.quota.map_or(0, |quota| stored.saturating_sub(quota));
    let bound = match room.quota {
        Some(limit) if quota > 0 && disk == 0 => Bound::Quota(limit),
        Some(_) | None => Bound::Disk,
    };
    let missing = disk.max(quota);
    if missing == 0 { Ok(()) } else { Err(Shortage { bound, missing, need, room }) }
}

// === impl Shortage ===

impl Shortage {
    /// For the pod's owner. `could_free` is what removing images that nobody needs would free, if that is known.
    pub(crate) fn message(&self, reference: &Reference, could_free: Result<u64, NotYet>) -> String {
        let Self { need, room, .. } = self;
        let at_least = match need.precision {
            Precision::Exact => "",
            Precision::AtLeast => "at least ",
        };
        let (space, size, have, promised) = match self.bound {
            Bound::Disk => ("disk space", need.share.unwritten, on_disk(room), room.promised.unwritten),
            Bound::Quota(limit) => ("space", need.share.whole, within(limit, room), room.promised.whole),
        };
        let promised = match promised {
            0 => String::new(),
            bytes => format!(", {} are promised to other pulls", binary(bytes)),
        };
        let free = match could_free {
            Ok(0) => "nothing could be freed by removing unused images".to_owned(),
            Ok(bytes) => format!("{} could be freed by removing unused images", binary(bytes)),
            Err(not_yet) => format!("and no image is removed: {not_yet}"),
        };
        format!("not enough {space} for image {reference}: needs {at_least}{}, {have}{promised}, {free}", binary(size))
    }
}

fn on_disk(room: &Room) -> String {
    let kept = if room.kept == 0 { String::new() } else { format!(" of which {} are kept free", binary(room.kept)) };
    format!("{} free{kept}", binary(room.free))
}

fn within(limit: u64, room: &Room) -> String {
    format!("images take {} of {} (limits.maxStoreBytes)", binary(room.stored), binary(limit))
}

impl EmbeddedImageService {
    /// Promises room for what is to be fetched. Where there is none, images that nobody needs are removed, if that makes enough of it;
    /// if not, nothing is.
    ///
    /// Killed at any point: promises are memory, and go with the process.
    pub(crate) async fn make_room(&self, reference: &Reference, fetches: &[Fetch]) -> Result<()> {
        let Some(_) = self.promise(fetches).await? else { return Ok(()) };
        // Two that are short must not both make room for themselves where one removal serves both.
        let turn = self.turns.soon().await;
        for _ in 0..COLLECTIONS {
            let Some(shortage) = self.promise(fetches).await? else { return Ok(()) };
            let turn = turn.as_ref().map_err(|not_yet| refusal(&shortage, reference, Err(*not_yet)))?;
            let wish = self.wish(&shortage);
            let could_free = self.collect(turn, wish, Execution::DryRun).await?.freed_bytes();
            if could_free < shortage.missing {
                return Err(refusal(&shortage, reference, Ok(could_free)));
            }
            tracing::info!(%reference, missing = shortage.missing, could_free, "removing unused images to make room");
            self.remove_unused(turn, wish).await?;
        }
        let Some(shortage) = self.promise(fetches).await? else { return Ok(()) };
        let turn = turn.map_err(|not_yet| refusal(&shortage, reference, Err(not_yet)))?;
        let could_free = self.collect(&turn, self.wish(&shortage), Execution::DryRun).await?.freed_bytes();
        Err(refusal(&shortage, reference, Ok(could_free)))
    }

    /// Goes on, and keeps the turn, if the pull ends meanwhile: what was removed is told of in any case.
    async fn remove_unused(&self, turn: &Turn, wish: Wish) -> Result<()> {
        let (service, turn, (done, end)) = (self.clone(), turn.clone(), oneshot::channel());
        self.supervisor.spawn("make room", async move {
            let collected = service.collect(&turn, wish, Execution::Delete).await;
            drop(done.send(collected.map(|collection| service.tell_of_room(collection))));
        });
        let broken_off =
            || ImageServiceError::Node { message: "the removal of unused images was broken off".to_owned() };
        end.await.unwrap_or_else(|_| Err(broken_off()))
    }

    fn tell_of_room(&self, collection: Collection) {
        if let Some(to) = &self.made_room {
            // At the end of the process nobody listens any more.
            drop(to.send(collection));
        }
    }

    /// What is missing, or nothing; then the room is promised.
    async fn promise(&self, fetches: &[Fetch]) -> Result<Option<Shortage>> {
        let (fetches, downloads) = (fetches.to_vec(), Arc::clone(&self.downloads));
        self.blocking(move |store| promise(store, &downloads, &fetches).map(Result::err)).await
    }

    fn wish(&self, shortage: &Shortage) -> Wish {
        Wish { goal: Goal::Free(shortage.missing), min_age: self.limits.min_gc_age }
    }
}

fn refusal(shortage: &Shortage, reference: &Reference, could_free: Result<u64, NotYet>) -> ImageServiceError {
    ImageServiceError::NoRoom { message: shortage.message(reference, could_free) }
}

fn promise(store: &Store, downloads: &Downloads, fetches: &[Fetch]) -> Result<Result<(), Shortage>, StoreError> {
    let mut own = Vec::new();
    for fetch in fetches {
        let descriptor = &fetch.layer.descriptor;
        // Of one that nobody runs: what an earlier try has left counts as written.
        if fetch.download.progress.done() == 0 {
            fetch.download.progress.set(store.downloaded(&descriptor.digest, descriptor.size, &fetch.layer.form)?);
        }
        own.push(Arc::clone(&fetch.download));
    }
    let (space, limits) = (store.space()?, store.limits());
    let precision = precision(fetches);
    let admitted = downloads.promise(&own, |share, promised| {
        let quota = (limits.max_store_bytes > 0).then_some(limits.max_store_bytes);
        let (kept, stored) = (limits.min_free_bytes, space.stored);
        admit(Need { share, precision }, Room { free: space.available, kept, stored, quota, promised })
    });
    Ok(admitted)
}

fn precision(fetches: &[Fetch]) -> Precision {
    let as_it_comes = |fetch: &Fetch| match &fetch.layer.form {
        Form::Blob => true,
        Form::Layer { compression, .. } => *compression == Compression::None,
    };
    if fetches.iter().all(as_it_comes) { Precision::Exact } else { Precision::AtLeast }
}

#[cfg(test)]
mod tests;
