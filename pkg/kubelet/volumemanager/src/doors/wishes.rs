//! What doors want: a plain value.

use std::collections::{BTreeMap, BTreeSet};

use imagevol_api::names::PodUid;
use imagevol_volume::{Goal, Key};

use super::{PublishError, VolumeRequest, wanted};
use crate::state::Wanted;

/// What doors want, all of them together.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    pub(super) entries: BTreeMap<Key, Entry>,
    /// Pods whose volumes nobody needs to mount any more.
    pub(super) deleted: BTreeSet<PodUid>,
    /// To be cleared away, whether it is known or not.
    pub(super) unseen: BTreeSet<Key>,
    /// Asked for again after they were mounted.
    pub(super) doubted: BTreeSet<Key>,
    /// Pods that somebody wants to be tried again at once.
    pub(super) retried: BTreeSet<PodUid>,
    /// Unpublished, and still expected by somebody who has not heard of it.
    pub(super) done: BTreeSet<Key>,
    /// Whether somebody tells of pods that are deleted.
    pub(super) follows: bool,
}

/// One volume.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) wanted: Wanted,
    pub(super) asked: Asked,
    /// A pod that lives has it in its spec.
    expected: bool,
}

/// What calls have asked for, and were told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// Nothing yet.
    Nothing,
    /// For the mount, and were told that it cannot be had: they will ask again, and never take it back.
    Refused,
    /// For the mount, and wait for it, or have been told to ask again.
    Mount,
    /// For the mount, and were told that it is there.
    Mounted,
}

// === impl Wishes ===

impl Wishes {
    /// Wants a mount. What has failed before is tried again when its back-off ends, with what this request shows.
    pub(super) fn publish(&mut self, key: &Key, request: VolumeRequest) -> Result<(), PublishError> {
        let runs = self.entries.get(key).is_some_and(|entry| entry.asked == Asked::Mounted);
        if !runs && self.deleted.contains(&key.pod) {
            return Err(PublishError::PodDeleted);
        }
        self.done.remove(key);
        let before = self.entries.get(key);
        let wanted = wanted(key, request, Goal::Mounted);
        if let Some(before) = before.filter(|before| before.is_published() && !before.wanted.is_same_volume(&wanted)) {
            return Err(PublishError::Conflict { reference: before.wanted.reference() });
        }
        let expected = before.is_some_and(|before| before.expected);
        let asked = if runs { Asked::Mounted } else { Asked::Mount };
        if runs {
            self.doubted.insert(key.clone());
        }
        self.entries.insert(key.clone(), Entry { wanted, asked, expected });
        Ok(())
    }

    pub(super) fn withdraw(&mut self, key: &Key) {
        if self.entries.remove(key).is_some_and(|entry| entry.expected) {
            self.done.insert(key.clone());
        }
        self.unseen.insert(key.clone());
    }

    /// A publish has failed for good. The image goes on being looked for at the pace of its back-off, without a mount, until the pod is
    /// known to be over.
    pub(super) fn fail(&mut self, key: &Key) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.asked = Asked::Refused;
            entry.wanted.goal = Goal::Present;
        }
    }

    pub(super) fn expect(&mut self, expected: BTreeMap<Key, VolumeRequest>) {
        self.done.retain(|key| expected.contains_key(key));
        for (key, entry) in &mut self.entries {
            entry.expected = expected.contains_key(key);
        }
        self.entries.retain(|_, entry| entry.asked != Asked::Nothing || entry.expected);
        for (key, request) in expected {
            if !self.done.contains(&key) && !self.deleted.contains(&key.pod) {
                self.expect_one(key, request);
            }
        }
    }

    /// What was taken up from before a restart learns here which pod it is of.
    fn expect_one(&mut self, key: Key, request: VolumeRequest) {
        let wanted = wanted(&key, request, Goal::Present);
        let pod = wanted.pod.clone();
        let new = Entry { wanted, asked: Asked::Nothing, expected: true };
        let entry = self.entries.entry(key).or_insert(new);
        entry.wanted.pod = pod;
    }

    pub(super) fn forsake(&mut self, deleted: BTreeSet<PodUid>) {
        self.entries.retain(|key, entry| entry.asked == Asked::Mounted || !deleted.contains(&key.pod));
        self.deleted = deleted;
        self.follows = true;
    }

    pub(super) fn give_up(&mut self, key: &Key) {
        self.entries.retain(|other, entry| other != key || entry.asked == Asked::Mounted);
    }

    /// What an earlier run left.
    pub(super) fn adopt(&mut self, key: &Key, wanted: Wanted, mounted: bool) {
        let goal = if mounted { Goal::Mounted } else { Goal::Present };
        let wanted = Wanted { goal, ..wanted };
        let asked = if mounted { Asked::Mounted } else { Asked::Nothing };
        self.entries.insert(key.clone(), Entry { wanted, asked, expected: !mounted });
    }
}

// === impl Entry ===

impl Entry {
    /// Whether a call has asked for the mount, and none has taken it back.
    pub(super) fn is_published(&self) -> bool {
        matches!(self.asked, Asked::Mount | Asked::Mounted)
    }
}
