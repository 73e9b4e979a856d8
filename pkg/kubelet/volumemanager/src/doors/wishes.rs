//! What doors want: a plain value.

use std::collections::{BTreeMap, BTreeSet};

use imagevol_api::names::PodUid;
use imagevol_volume::{Goal, Key};

use super::{PublishError, VolumeRequest, wanted};
use crate::state::Wanted;

/// What doors want, all of them together.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    /// Counts the changes.
    pub(super) version: u64,
    pub(super) entries: BTreeMap<Key, Entry>,
    /// Pods whose volumes nobody needs to mount any more.
    pub(super) deleted: BTreeSet<PodUid>,
    /// To be cleared away, whether it is known or not.
    pub(super) unseen: BTreeSet<Key>,
    /// Unpublished, and still expected by somebody who has not heard of it.
    pub(super) done: BTreeSet<Key>,
}

/// One volume.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) wanted: Wanted,
    /// A call has asked for the mount, and none has taken it back.
    pub(super) published: bool,
    /// A call was told that it is mounted.
    pub(super) confirmed: bool,
    /// A pod that lives has it in its spec.
    expected: bool,
}

// === impl Wishes ===

impl Wishes {
    /// Wants a mount; the number of the attempt whose end is the answer. `failed` is the attempt that is known to have failed: then
    /// a new one begins.
    pub(super) fn publish(
        &mut self,
        key: &Key,
        request: VolumeRequest,
        failed: Option<u64>,
    ) -> Result<u64, PublishError> {
        let runs = self.entries.get(key).is_some_and(|entry| entry.confirmed);
        if !runs && self.deleted.contains(&key.pod) {
            return Err(PublishError::PodDeleted);
        }
        self.done.remove(key);
        let before = self.entries.get(key);
        let attempt = before.map(|entry| entry.wanted.attempt).filter(|attempt| failed != Some(*attempt));
        let attempt = attempt.unwrap_or(self.version);
        let wanted = wanted(key, request, Goal::Mounted, attempt);
        if let Some(before) = before.filter(|before| before.published && !before.wanted.is_same_volume(&wanted)) {
            return Err(PublishError::Conflict { reference: before.wanted.reference() });
        }
        let (confirmed, expected) = before.map_or((false, false), |before| (before.confirmed, before.expected));
        self.entries.insert(key.clone(), Entry { wanted, published: true, confirmed, expected });
        Ok(attempt)
    }

    pub(super) fn withdraw(&mut self, key: &Key) {
        if self.entries.remove(key).is_some_and(|entry| entry.expected) {
            self.done.insert(key.clone());
        }
        self.unseen.insert(key.clone());
    }

    /// A publish has failed for good. What a living pod names goes on being looked for, without a mount.
    pub(super) fn fail(&mut self, key: &Key) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.expected {
            entry.published = false;
            entry.wanted.goal = Goal::Present;
        } else {
            self.entries.remove(key);
        }
    }

    pub(super) fn expect(&mut self, expected: BTreeMap<Key, VolumeRequest>) {
        self.done.retain(|key| expected.contains_key(key));
        for (key, entry) in &mut self.entries {
            entry.expected = expected.contains_key(key);
        }
        self.entries.retain(|_, entry| entry.published || entry.expected);
        for (key, request) in expected {
            if !self.done.contains(&key) && !self.deleted.contains(&key.pod) {
                self.expect_one(key, request);
            }
        }
    }

    /// What was taken up from before a restart learns here which pod it is of.
    fn expect_one(&mut self, key: Key, request: VolumeRequest) {
        let wanted = wanted(&key, request, Goal::Present, self.version);
        let pod = wanted.pod.clone();
        let new = Entry { wanted, published: false, confirmed: false, expected: true };
        let entry = self.entries.entry(key).or_insert(new);
        entry.wanted.pod = pod;
    }

    pub(super) fn forsake(&mut self, deleted: BTreeSet<PodUid>) {
        self.entries.retain(|key, entry| entry.confirmed || !deleted.contains(&key.pod));
        self.deleted = deleted;
    }

    pub(super) fn give_up(&mut self, key: &Key) {
        self.entries.retain(|other, entry| other != key || entry.confirmed);
    }

    /// What an earlier run left.
    pub(super) fn adopt(&mut self, key: &Key, wanted: Wanted, mounted: bool) {
        let goal = if mounted { Goal::Mounted } else { Goal::Present };
        let wanted = Wanted { goal, ..wanted };
        self.entries.insert(key.clone(), Entry { wanted, published: mounted, confirmed: mounted, expected: !mounted });
    }
}
