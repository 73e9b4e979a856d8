//! The fake's garbage: a disk that fills up, node time that a test lets pass, and removals that can be made to fail.
//!
//! It keeps rows as the store does, and decides with a model of its own, so that neither can hide a mistake of the other.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use async_trait::async_trait;
use imagevol_base::collection::{Collected, Collection, Execution, Goal, NodeTime, Stay, Stayed, Turn, Turns, Wish};
use imagevol_cri::{FilesystemUsage, Holder, Image, ImageCollector, ImageId, ImageServiceError, Result};

use super::{FakeImageService, State};

/// The file system of images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Disk {
    /// Bytes of all of it.
    pub capacity: u64,
    /// Bytes that something else than images takes.
    pub others: u64,
}

/// Whether garbage collection must keep an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pinned {
    /// It must.
    Yes,
    /// It need not.
    No,
}

/// What is known of images beside what they are.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    now: NodeTime,
    disk: Disk,
    lives: BTreeMap<ImageId, Life>,
    stuck: BTreeMap<ImageId, String>,
    usage_errors: VecDeque<ImageServiceError>,
    collect_errors: VecDeque<ImageServiceError>,
    wishes: Vec<(Wish, Execution)>,
}

#[derive(Debug, Clone, Copy)]
struct Life {
    first_seen: NodeTime,
    last_used: Option<NodeTime>,
}

// === impl FakeImageService ===

impl FakeImageService {
    /// Makes the disk this large.
    pub fn set_disk(&self, disk: Disk) {
        self.state().ledger.disk = disk;
    }

    /// Lets node time pass, in whole seconds.
    pub fn pass(&self, time: Duration) {
        self.state().ledger.now.0 += time.as_secs();
    }

    /// Pins an image, or takes its pin.
    pub fn set_pinned(&self, id: &ImageId, pinned: Pinned) {
        if let Some(image) = self.state().present.get_mut(id) {
            image.pinned = pinned == Pinned::Yes;
        }
    }

    /// From now on this image cannot be removed.
    pub fn fail_removal(&self, id: &ImageId, why: &str) {
        self.state().ledger.stuck.insert(id.clone(), why.to_owned());
    }

    /// The next look at the disk fails so.
    pub fn fail_usage(&self, error: ImageServiceError) {
        self.state().ledger.usage_errors.push_back(error);
    }

    /// The next collection fails so, before it does anything.
    pub fn fail_collect(&self, error: ImageServiceError) {
        self.state().ledger.collect_errors.push_back(error);
    }

    /// From now on, and for clones made after this, nobody collects until turns are opened.
    pub fn close_turns(&mut self) {
        self.turns = Turns::closed();
    }

    /// The collections so far, and forgets them.
    pub fn take_wishes(&self) -> Vec<(Wish, Execution)> {
        std::mem::take(&mut self.state().ledger.wishes)
    }
}

#[async_trait]
impl ImageCollector for FakeImageService {
    fn turns(&self) -> &Turns {
        &self.turns
    }

    async fn collect(&self, _turn: &Turn, wish: Wish, execution: Execution) -> Result<Collection> {
        let mut state = self.state();
        state.ledger.wishes.push((wish, execution));
        match state.ledger.collect_errors.pop_front() {
            Some(error) => Err(error),
            None => Ok(state.collect(wish, execution)),
        }
    }
}

// === impl State ===

impl State {
    pub(super) fn fs_info(&mut self) -> Result<FilesystemUsage> {
        if let Some(error) = self.ledger.usage_errors.pop_front() {
            return Err(error);
        }
        let used_bytes: u64 = self.present.values().map(|image| image.size).sum();
        let Disk { capacity, others } = self.ledger.disk;
        let available_bytes = capacity.saturating_sub(used_bytes + others);
        Ok(FilesystemUsage { used_bytes, inodes_used: 0, capacity_bytes: capacity, available_bytes })
    }

    /// Forgets an image: if it comes back, it is a new one.
    pub(super) fn take_away(&mut self, id: &ImageId) {
        self.present.remove(id);
        self.ledger.lives.remove(id);
    }

    fn collect(&mut self, wish: Wish, execution: Execution) -> Collection {
        let mut images: Vec<Image> = self.present.values().cloned().collect();
        images.sort_by_key(|image| self.ledger.order(&image.id));
        let mut collection = Collection::default();
        for image in images {
            let (names, digest) = (image.repo_tags.clone(), image.id.digest().clone());
            if let Some(because) = self.stays(&image, wish, collection.freed_bytes()) {
                collection.stayed.push(Stayed { image: digest, names, because });
            } else if let Some(why) = self.ledger.stuck.get(&image.id) {
                collection.failed.push((digest, why.clone()));
            } else {
                let unused_for = self.ledger.unused_for(&image.id);
                collection.gone.push(Collected { image: digest, names, freed_bytes: image.size, unused_for });
                if execution == Execution::Delete {
                    self.take_away(&image.id);
                }
            }
        }
        collection
    }

    fn stays(&self, image: &Image, wish: Wish, freed: u64) -> Option<Stay> {
        let holders = self.holders_of(image);
        if !holders.is_empty() {
            return Some(Stay::Held(holders));
        }
        if image.pinned {
            return Some(Stay::Pinned(image.repo_tags.clone()));
        }
        let age = self.ledger.now.since(self.ledger.life(&image.id).first_seen);
        let unused = self.ledger.unused_for(&image.id);
        match wish.goal {
            _ if age < wish.min_age => Some(Stay::Young(wish.min_age.saturating_sub(age))),
            Goal::UnusedFor(most) if unused <= most => Some(Stay::Young(most.saturating_sub(unused))),
            Goal::Free(bytes) if freed >= bytes => Some(Stay::NotNeeded),
            Goal::UnusedFor(_) | Goal::Free(_) | Goal::Everything => None,
        }
    }

    /// Who is bound to the image, or waits for one of its names.
    fn holders_of(&self, image: &Image) -> Vec<Holder> {
        let keeps = |(name, id): &(String, Option<ImageId>)| {
            id.as_ref().map_or_else(|| image.repo_tags.contains(name), |id| *id == image.id)
        };
        self.rows.iter().filter(|(_, row)| keeps(row)).map(|(holder, _)| holder.clone()).collect()
    }
}

// === impl Ledger ===

impl Ledger {
    /// An image that is known already keeps the time at which it was first seen.
    pub(super) fn seen(&mut self, id: &ImageId) {
        let first_seen = self.now;
        self.lives.entry(id.clone()).or_insert(Life { first_seen, last_used: None });
    }

    pub(super) fn used(&mut self, id: &ImageId) {
        self.seen(id);
        let now = self.now;
        if let Some(life) = self.lives.get_mut(id) {
            life.last_used = Some(now);
        }
    }

    fn life(&self, id: &ImageId) -> Life {
        self.lives.get(id).copied().unwrap_or(Life { first_seen: self.now, last_used: None })
    }

    fn unused_for(&self, id: &ImageId) -> Duration {
        let Life { first_seen, last_used } = self.life(id);
        self.now.since(last_used.unwrap_or(first_seen))
    }

    /// Least recently used first; of those, the one that was seen first.
    fn order(&self, id: &ImageId) -> (NodeTime, NodeTime, ImageId) {
        let Life { first_seen, last_used } = self.life(id);
        (last_used.unwrap_or(first_seen), first_seen, id.clone())
    }
}
