//! Decides, from what the manifests say and what became of the volumes, which pods this node serves and what their statuses are. Pure.
//!
//! A pod that has failed is not served, so that its references and mounts are released. A pod that comes back under the same UID (after a retry,
//! or removed and applied again) is served only when the volume manager no longer reports it: a report that is older would tell the end
//! of its former life.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::Instant;

use imagevol_api::corev1::{Pod, PodStatus};
use imagevol_api::names::PodUid;
use imagevol_base::PodSet;
use imagevol_base::volumes::{PodVolumeReport, VolumeReports};

use crate::db::{Changes, PodRow};
use crate::file::{ManifestPod, Manifests};
use crate::status::{Now, PullFailure, StatusInput, is_failed, pod_status};

/// What is known, and what has been said about it.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) manifests: Arc<Manifests>,
    /// None before the first report: until then the statuses of the last run stand.
    pub(crate) reports: Option<Arc<VolumeReports>>,
    pull_failure: PullFailure,
    rows: Rows,
    /// What the database holds.
    saved: Rows,
    served: BTreeMap<PodUid, Arc<Pod>>,
    /// Pods that were served and must be out of the reports before they are served again.
    releasing: BTreeSet<PodUid>,
}

/// Pods with their statuses.
pub(crate) type Rows = BTreeMap<PodUid, Arc<PodRow>>;

/// What follows from a change.
#[derive(Debug)]
pub(crate) struct Step {
    /// The pods that this node serves.
    pub(crate) pods: PodSet,
    /// All pods with their statuses.
    pub(crate) rows: Rows,
    /// What the database does not hold yet.
    pub(crate) unsaved: Changes<Arc<PodRow>>,
    /// Pods that failed in this step.
    pub(crate) failed: Vec<Arc<PodRow>>,
    /// When time alone changes something.
    pub(crate) due: Option<Instant>,
}

// === impl World ===

impl World {
    /// The world as the database remembers it.
    pub(crate) fn new(pull_failure: PullFailure, saved: Rows) -> Self {
        Self {
            manifests: Arc::default(),
            reports: None,
            pull_failure,
            rows: saved.clone(),
            saved,
            served: BTreeMap::new(),
            releasing: BTreeSet::new(),
        }
    }

    /// Draws the conclusions. Idempotent.
    pub(crate) fn step(&mut self, now: Now) -> Step {
        let reports = self.reports.clone().unwrap_or_default();
        self.releasing.retain(|uid| reports.contains_key(uid));
        self.release_changed_pods();
        let failed = self.update_rows(now);
        let pods: BTreeMap<_, _> = self.servable().collect();
        let released = self.served.keys().filter(|uid| !pods.contains_key(*uid) && reports.contains_key(*uid));
        self.releasing.extend(released.cloned());
        self.served.clone_from(&pods);
        Step {
            pods: PodSet { pods, all_sources_ready: self.manifests.ready },
            rows: self.rows.clone(),
            unsaved: self.unsaved(),
            failed,
            due: self.due(),
        }
    }

    /// Notes that the database holds what [`Step::rows`] was.
    pub(crate) fn saved(&mut self, rows: Rows) {
        self.saved = rows;
    }

    /// Forgets that a pod has failed, with all that was reported of it; `false` if it has not.
    pub(crate) fn retry(&mut self, uid: &PodUid) -> bool {
        if !self.rows.get(uid).is_some_and(|row| row_failed(row)) {
            return false;
        }
        self.forget(uid);
        true
    }

    fn forget(&mut self, uid: &PodUid) {
        self.rows.remove(uid);
        self.served.remove(uid);
        if self.reports.as_ref().is_some_and(|reports| reports.contains_key(uid)) {
            self.releasing.insert(uid.clone());
        }
    }

    /// A manifest that brings its own UID can change under it: that is another pod.
    fn release_changed_pods(&mut self) {
        let changed = |(uid, row): (&PodUid, &Arc<PodRow>)| {
            let now = self.manifests.pods.get(uid)?;
            (now.pod.spec != row.pod.spec).then(|| uid.clone())
        };
        let changed: Vec<_> = self.rows.iter().filter_map(changed).collect();
        for uid in &changed {
            self.forget(uid);
        }
    }

    /// The rows of the pods that are there now; which of them have failed just now.
    fn update_rows(&mut self, now: Now) -> Vec<Arc<PodRow>> {
        let mut failed = Vec::new();
        let mut rows = Rows::new();
        for (uid, entry) in &self.manifests.pods {
            let before = self.rows.get(uid);
            let row = self.row(uid, entry, now);
            if row_failed(&row) && !before.is_some_and(|before| row_failed(before)) {
                failed.push(Arc::clone(&row));
            }
            rows.insert(uid.clone(), row);
        }
        if !self.manifests.ready {
            // A pod that has not been seen yet may still come.
            rows.extend(
                std::mem::take(&mut self.rows).into_iter().filter(|(uid, _)| !self.manifests.pods.contains_key(uid)),
            );
        }
        self.rows = rows;
        failed
    }

    /// The row before, if nothing changed.
    fn row(&self, uid: &PodUid, entry: &ManifestPod, now: Now) -> Arc<PodRow> {
        let before = self.rows.get(uid);
        let status = self.status(uid, entry, now);
        let same = |before: &&Arc<PodRow>| *before.file == *entry.file && before.pod.status.as_ref() == Some(&status);
        if let Some(before) = before.filter(same) {
            return Arc::clone(before);
        }
        let pod = Pod { status: Some(status), ..Pod::clone(&entry.pod) };
        Arc::new(PodRow { file: entry.file.to_string(), pod })
    }

    fn status(&self, uid: &PodUid, entry: &ManifestPod, now: Now) -> PodStatus {
        let previous = self.rows.get(uid).and_then(|before| before.pod.status.as_ref());
        if let (Some(previous), None) = (previous, &self.reports) {
            return previous.clone();
        }
        let (report, pull_failure) = (self.report(uid), self.pull_failure);
        pod_status(StatusInput { pod: &entry.pod, report: &report, now, pull_failure, previous })
    }

    /// Nothing, for a pod whose former life is still being told.
    fn report(&self, uid: &PodUid) -> PodVolumeReport {
        let known =
            self.reports.as_ref().and_then(|reports| reports.get(uid)).filter(|_| !self.releasing.contains(uid));
        known.cloned().unwrap_or_default()
    }

    fn servable(&self) -> impl Iterator<Item = (PodUid, Arc<Pod>)> {
        let fit =
            |uid: &PodUid| !self.releasing.contains(uid) && !self.rows.get(uid).is_some_and(|row| row_failed(row));
        let served = self.manifests.pods.iter().filter(move |(uid, _)| fit(uid));
        served.map(|(uid, entry)| (uid.clone(), Arc::clone(&entry.pod)))
    }

    fn unsaved(&self) -> Changes<Arc<PodRow>> {
        let same = |saved: &Arc<PodRow>, row: &Arc<PodRow>| Arc::ptr_eq(saved, row);
        let new = self.rows.iter().filter(|(uid, row)| !self.saved.get(*uid).is_some_and(|saved| same(saved, row)));
        let gone = self.saved.keys().filter(|uid| !self.rows.contains_key(*uid));
        Changes {
            put: new.map(|(uid, row)| (uid.to_string(), Arc::clone(row))).collect(),
            remove: gone.map(ToString::to_string).collect(),
        }
    }

    fn due(&self) -> Option<Instant> {
        let served = self.served.iter();
        served.filter_map(|(uid, pod)| self.pull_failure.due(pod, &self.report(uid))).min()
    }
}

/// Whether a row is of a pod that has failed.
pub(crate) fn row_failed(row: &PodRow) -> bool {
    row.pod.status.as_ref().is_some_and(is_failed)
}

#[cfg(test)]
mod tests;
