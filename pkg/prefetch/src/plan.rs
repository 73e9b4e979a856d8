//! What to do next about the images of lists. Pure: what is known and the time go in, actions come out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use imagevol_api::prefetch::PrefetchPolicy;
use imagevol_cri::ImageId;
use imagevol_images::PullPolicy;
use jiff::Timestamp;

use crate::images::{Present, Row};
use crate::item::{Completeness, Item, Key, Lists};

/// Pulls of lists at once: one that is large, and one that need not wait for it. More would be in the way of pods.
pub(crate) const PULLS_AT_ONCE: usize = 2;

/// What is known beside the lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Rows of lists.
    pub rows: BTreeMap<Key, Row>,
    /// The images that normalized references lead to.
    pub present: BTreeMap<String, Present>,
    /// What is being pulled.
    pub pulling: BTreeSet<Key>,
    /// What has failed so recently that it waits.
    pub waiting: BTreeSet<Key>,
    /// When the registry answered last, in this run of the daemon.
    pub asked: BTreeMap<Key, Timestamp>,
    /// Rows that were given an end, in this run or an earlier one: one of them that is gone was used, or its time is over.
    pub started: BTreeSet<Key>,
}

/// What is to be done. Each is done, or has failed, before there is a next plan; but for pulls, which go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Write that the image is wanted, without an end.
    Hold(Key, String),
    /// Let the row end after so long, or at the first use.
    StartClock(Key, String, Duration),
    /// Tie the row to an image that is here.
    Bind(Key, ImageId),
    /// Pull it.
    Pull(Key, String, PullPolicy),
    /// Break its pull off.
    Cancel(Key),
    /// Take the row back.
    Release(Key),
    /// Forget that its row ever had an end: it begins anew if it is listed again.
    Forget(Key),
}

/// How far an image of a list is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Its turn has not come, or it may not be pulled and is not here.
    Waiting,
    /// It is being pulled.
    Pulling,
    /// It is here and kept.
    Present,
    /// It is not here, and the last pull failed.
    Failed,
    /// It was used, or its time is over.
    Ended,
}

/// The next actions; none where nothing is to be done before something changes, or [`next_change`].
///
/// Rows come before pulls, so that an image is held from the moment that it is wanted. Nothing is given up while a file is unread.
pub fn plan(lists: &Lists, known: &Known, now: Timestamp) -> Vec<Action> {
    let mut actions = cancellations(lists, known, now);
    actions.extend(lists.items.iter().filter_map(|item| rows_of(item, known, now)));
    if lists.complete == Completeness::Complete {
        actions.extend(unlisted(lists, known));
    }
    let free = PULLS_AT_ONCE.saturating_sub(known.pulling.len());
    actions.extend(lists.items.iter().filter_map(|item| pull_of(item, known, now)).take(free));
    actions
}

/// When the plan changes although nothing else does: a deadline, or a schedule.
pub fn next_change(lists: &Lists, known: &Known, now: Timestamp) -> Option<Timestamp> {
    let of_item = |item: &Item| {
        let scheduled = if is_alive(item, known, now) { next_pull(item, known) } else { None };
        [item.image.deadline, scheduled]
    };
    lists.items.iter().flat_map(of_item).flatten().filter(|time| *time > now).min()
}

/// When the registry is asked by schedule; `None` without one, or where the first pull is still to come.
pub(crate) fn next_pull(item: &Item, known: &Known) -> Option<Timestamp> {
    match item.image.policy {
        PrefetchPolicy::Always(schedule) => schedule?.next_after(last_asked(item, known)?),
        PrefetchPolicy::IfNotPresent | PrefetchPolicy::Never => None,
    }
}

/// How far an item is; `failed` says whether its last pull did.
pub(crate) fn phase(item: &Item, known: &Known, now: Timestamp, failed: bool) -> Phase {
    if !is_alive(item, known, now) {
        return Phase::Ended;
    }
    match () {
        () if known.pulling.contains(&item.key) => Phase::Pulling,
        () if is_satisfied(item, known) => Phase::Present,
        () if failed => Phase::Failed,
        () => Phase::Waiting,
    }
}

/// The one thing to do about an item's row, if there is one.
fn rows_of(item: &Item, known: &Known, now: Timestamp) -> Option<Action> {
    let (key, row) = (&item.key, known.rows.get(&item.key));
    if !is_alive(item, known, now) {
        return row.map(|_| Action::Release(key.clone()));
    }
    let present = known.present.get(&item.reference());
    match (row, item.image.keep_unused_for) {
        (None, _) => Some(Action::Hold(key.clone(), item.reference())),
        // The list does not limit it any more.
        (Some(row), None) if row.expires.is_some() => Some(Action::Hold(key.clone(), item.reference())),
        (Some(_), None) if known.started.contains(key) => Some(Action::Forget(key.clone())),
        (Some(row), keep) => match present {
            Some(present) if row.image.as_ref() != Some(&present.image) => {
                may_bind(item, row).then(|| Action::Bind(key.clone(), present.image.clone()))
            }
            Some(_) if row.expires.is_none() && !known.pulling.contains(key) => {
                keep.map(|keep| Action::StartClock(key.clone(), item.reference(), keep))
            }
            Some(_) | None => None,
        },
    }
}

/// What is here is what is wanted, unless the registry is to be asked first.
fn may_bind(item: &Item, row: &Row) -> bool {
    match item.image.policy {
        PrefetchPolicy::Always(_) => row.image.is_some(),
        PrefetchPolicy::IfNotPresent | PrefetchPolicy::Never => true,
    }
}

/// Pulls that nobody wants any more.
fn cancellations(lists: &Lists, known: &Known, now: Timestamp) -> Vec<Action> {
    let item_of = |key: &Key| lists.items.iter().find(|item| item.key == *key);
    let is_over = |key: &&Key| match item_of(key) {
        Some(item) => !is_alive(item, known, now),
        None => lists.complete == Completeness::Complete,
    };
    known.pulling.iter().filter(is_over).cloned().map(Action::Cancel).collect()
}

/// Rows and memories of what no list names.
fn unlisted(lists: &Lists, known: &Known) -> Vec<Action> {
    let listed: BTreeSet<_> = lists.items.iter().map(|item| &item.key).collect();
    let rows = known.rows.keys().filter(|key| !listed.contains(key)).cloned().map(Action::Release);
    let started = known.started.iter().filter(|key| !listed.contains(key)).cloned().map(Action::Forget);
    rows.chain(started).collect()
}

fn pull_of(item: &Item, known: &Known, now: Timestamp) -> Option<Action> {
    let (key, row) = (&item.key, known.rows.get(&item.key)?);
    if !is_alive(item, known, now) || known.pulling.contains(key) || known.waiting.contains(key) {
        return None;
    }
    let policy = match item.image.policy {
        PrefetchPolicy::Never => return None,
        PrefetchPolicy::IfNotPresent => PullPolicy::IfNotPresent,
        PrefetchPolicy::Always(_) => PullPolicy::Always,
    };
    let absent = !known.present.contains_key(&item.reference());
    let due = next_pull(item, known).is_some_and(|time| time <= now);
    let first = row.image.is_none() && policy == PullPolicy::Always;
    (absent || due || first).then(|| Action::Pull(key.clone(), item.reference(), policy))
}

/// Whether an item is still to be had: its deadline has not passed, and it was neither used nor kept for as long as it should.
fn is_alive(item: &Item, known: &Known, now: Timestamp) -> bool {
    let in_time = item.image.deadline.is_none_or(|deadline| now < deadline);
    let has_run_out = item.image.keep_unused_for.is_some()
        && known.started.contains(&item.key)
        && !known.rows.contains_key(&item.key);
    in_time && !has_run_out
}

/// Whether the row keeps the image that the reference leads to.
fn is_satisfied(item: &Item, known: &Known) -> bool {
    let image = known.present.get(&item.reference()).map(|present| &present.image);
    let row = known.rows.get(&item.key);
    image.is_some() && row.is_some_and(|row| row.image.as_ref() == image)
}

/// When the registry was asked for an item last: in this run, or as far as its image tells.
fn last_asked(item: &Item, known: &Known) -> Option<Timestamp> {
    let pulled = known.present.get(&item.reference()).filter(|_| is_satisfied(item, known));
    let pulled = pulled.map(|present| present.pulled_at);
    known.asked.get(&item.key).copied().max(pulled)
}

#[cfg(test)]
mod tests;
