//! What a collection would take: pure, so that its rules can be tested without a disk.

use std::time::Duration;

use imagevol_base::collection::{Collected, Collection, Goal, Stay, Stayed, Wish};

use crate::census::{Census, Counted};

/// What goes and what stays. Of the images that nobody needs and that are old enough, those go first that were used least recently
/// (kubelet, `pkg/kubelet/images/image_gc_manager.go`, `byLastUsedAndDetected`); an image that was never used counts from when it
/// came. Bytes are those that the disk gets back: what images share goes with the last of them.
pub fn plan(census: &Census, wish: Wish) -> Collection {
    let mut collection = Collection::default();
    let mut order: Vec<&Counted> = Vec::new();
    for image in &census.images {
        match stays(census, image, wish) {
            Some(because) => collection.stayed.push(stayed(image, because)),
            None => order.push(image),
        }
    }
    order.sort_by_key(|image| (image.last(), image.first_seen.time, &image.image));
    let mut shares: Vec<usize> = census.content.iter().map(|piece| piece.images).collect();
    let mut freed = 0;
    for image in order {
        if matches!(wish.goal, Goal::Free(wanted) if freed >= wanted) {
            collection.stayed.push(stayed(image, Stay::NotNeeded));
            continue;
        }
        let freed_bytes = take(census, image, &mut shares);
        freed += freed_bytes;
        let unused_for = census.taken.since(image.last());
        let (image, names) = (image.image.clone(), image.names.clone());
        collection.gone.push(Collected { image, names, freed_bytes, unused_for });
    }
    collection
}

/// Why an image may not go at all.
fn stays(census: &Census, image: &Counted, wish: Wish) -> Option<Stay> {
    if !image.holders.is_empty() {
        return Some(Stay::Held(image.holders.iter().map(|(holder, _)| holder.clone()).collect()));
    }
    if !image.pins.is_empty() {
        return Some(Stay::Pinned(image.pins.iter().map(ToString::to_string).collect()));
    }
    if image.mounted {
        return Some(Stay::Mounted);
    }
    young(census, image, wish).map(Stay::Young)
}

/// How much longer an image stays because of its age.
fn young(census: &Census, image: &Counted, wish: Wish) -> Option<Duration> {
    let age = census.taken.since(image.first_seen.time);
    let too_young = (age < wish.min_age).then(|| wish.min_age.saturating_sub(age));
    let unused = census.taken.since(image.last());
    let too_fresh = match wish.goal {
        Goal::UnusedFor(limit) => (unused <= limit).then(|| limit.saturating_sub(unused)),
        Goal::Free(_) | Goal::Everything => None,
    };
    // Used while it was counted (kubelet, `freeSpace`: `image.lastUsed` not before `freeTime`).
    let meanwhile = (image.last() >= census.taken).then_some(Duration::ZERO);
    too_young.max(too_fresh).max(meanwhile)
}

/// Takes an image's shares in its content, and says what the last shares free.
fn take(census: &Census, image: &Counted, shares: &mut [usize]) -> u64 {
    let mut freed = image.index_bytes;
    for position in &image.content {
        let (Some(piece), Some(share)) = (census.content.get(*position), shares.get_mut(*position)) else { continue };
        *share = share.saturating_sub(1);
        if *share == 0 && !piece.leased {
            freed += piece.bytes;
        }
    }
    freed
}

fn stayed(image: &Counted, because: Stay) -> Stayed {
    Stayed { image: image.image.clone(), names: image.names.clone(), because }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
