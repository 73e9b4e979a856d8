//! What is known before a plan, and what is shown after it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use imagevol_api::prefetch::PrefetchPolicy;
use imagevol_cri::ImageServiceError;
use jiff::Timestamp;
use tokio::time::Instant;

use super::{Keeper, LOOK, Overview, Shown};
use crate::images::NodeImages;
use crate::item::{Item, Key, Lists};
use crate::plan::{Known, Phase, next_change, next_pull, phase};

// === impl Keeper ===

impl<I: NodeImages> Keeper<I> {
    pub(super) async fn observe(&self, lists: &Lists) -> Result<Known, ImageServiceError> {
        let mut present = BTreeMap::new();
        for reference in lists.items.iter().map(Item::reference) {
            if let Some(image) = self.parts.images.present(&reference).await? {
                present.insert(reference, image);
            }
        }
        let rows = self.parts.images.rows().await?;
        let now = Instant::now();
        let waits = |key: &&Key| self.state.backoff.in_backoff(*key, now).is_some();
        Ok(Known {
            rows: rows.into_iter().filter_map(|(holder, row)| Some((Key::of(&holder)?, row))).collect(),
            present,
            pulling: self.state.pulls.keys().cloned().collect(),
            waiting: lists.items.iter().map(|item| &item.key).filter(waits).cloned().collect(),
            asked: self.state.asked.clone(),
            started: self.state.started.keys().clone(),
        })
    }

    /// How long until the plan may change although nobody says so.
    pub(super) fn pause(&self, lists: &Lists, known: &Known, now: Timestamp) -> Duration {
        let until = |time: Timestamp| time.duration_since(now).try_into().unwrap_or(Duration::ZERO);
        let change = next_change(lists, known, now).map(until);
        let at = Instant::now();
        let retries = known.waiting.iter().filter_map(|key| self.state.backoff.in_backoff(key, at));
        retries.chain(change).min().unwrap_or(LOOK).min(LOOK)
    }

    pub(super) fn publish(&self, lists: &Lists, known: &Known, now: Timestamp) {
        let items: Vec<_> = lists.items.iter().map(|item| self.shown(item, known, now)).collect();
        self.parts.metrics.show(items.iter().map(|item| item.phase), lists.problems.len());
        self.published.send_replace(Arc::new(Overview { items, problems: lists.problems.clone() }));
    }

    fn shown(&self, item: &Item, known: &Known, now: Timestamp) -> Shown {
        let (key, row) = (&item.key, known.rows.get(&item.key));
        let failure = self.state.failures.get(key);
        let phase = phase(item, known, now, failure.is_some());
        let retry = self.state.backoff.in_backoff(key, Instant::now());
        let retry = retry.and_then(|wait| now.checked_add(wait).ok());
        let expires = row.and_then(|row| row.expires);
        let is_kept = phase != Phase::Ended;
        Shown {
            key: key.clone(),
            written: item.image.written.clone(),
            phase,
            image: row.and_then(|row| row.image.clone()).filter(|_| is_kept),
            message: failure.cloned().or_else(|| absent(item, phase)),
            next_pull: retry.or_else(|| next_pull(item, known)).filter(|_| is_kept),
            expires: expires.into_iter().chain(item.image.deadline).min(),
            progress: self.state.pulls.get(key).map(|pull| pull.progress.clone()),
        }
    }
}

/// Why an image waits that nobody will pull.
fn absent(item: &Item, phase: Phase) -> Option<String> {
    let never = phase == Phase::Waiting && item.image.policy == PrefetchPolicy::Never;
    never.then(|| "not present, and its pull policy is Never".to_owned())
}
