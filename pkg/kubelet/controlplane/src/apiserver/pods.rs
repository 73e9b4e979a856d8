//! The pods of this node, as the API server tells them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use imagevol_api::core::is_over;
use imagevol_api::corev1::Pod;
use imagevol_api::names::PodUid;
use imagevol_base::Supervisor;

use super::server::ApiServer;

mod follow;
mod prune;
mod watcher;

pub(super) use prune::API_SOURCE;
use watcher::Watcher;

/// The annotation with which the kubelet shows a static pod to the API server; its value is the UID that the kubelet itself uses for the
/// pod (Kubernetes, `pkg/kubelet/types`, `ConfigMirrorAnnotationKey`).
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
/// How long a pod that went is remembered: longer than any unmount that is tried again takes.
const REMEMBERED: Duration = Duration::from_hours(1);
/// How many such pods at most.
const MAX_REMEMBERED: usize = 4096;
/// How long the watch must have run unbroken before a pod that it has not shown is certainly not there: API servers answer a first list from a
/// cache, which lags behind what the kubelet already knows by seconds.
const ABSENCE_GRACE: Duration = Duration::from_mins(2);

/// The pods that are bound to this node. What is left of each: `metadata` without labels, owners and foreign annotations; of `spec` the names, the
/// pull secrets, the service account, and what belongs to image volumes and to volumes of our CSI driver; of `status` the phase. Each carries the
/// annotation `kubernetes.io/config.source: api`, whatever its owner wrote there.
#[derive(Debug, Clone, Default)]
pub struct NodePods {
    /// By UID. The last known set, while the API server is away.
    pub pods: BTreeMap<PodUid, Arc<Pod>>,
    /// Whether all pods have been listed at least once: until then an absent pod may well exist.
    pub synced: bool,
    /// Since when the watch is broken; `None` while it runs.
    pub stale_since: Option<Instant>,
    /// Pods that were there, and when they went.
    departed: BTreeMap<PodUid, Instant>,
    /// Since when the watch has run unbroken from a complete list on.
    live_since: Option<Instant>,
}

/// Follows the pods of a node until `supervisor` ends.
pub fn watch_pods(server: &ApiServer, node_name: &str, supervisor: &Supervisor) -> watch::Receiver<Arc<NodePods>> {
    let (publish, pods) = watch::channel(Arc::default());
    let watcher = Watcher::new(server.clone(), node_name, publish);
    supervisor.spawn("apiserver-pods", watcher.run(supervisor.token()));
    pods
}

// === impl NodePods ===

impl NodePods {
    /// Pods that are neither being deleted nor have ended.
    pub fn living(&self) -> impl Iterator<Item = (&PodUid, &Arc<Pod>)> {
        self.pods.iter().filter(|(_, pod)| !is_over(pod))
    }

    /// Pods for which nothing is to be mounted any more: being deleted, ended, or gone.
    pub fn over(&self) -> BTreeSet<PodUid> {
        let ending = self.pods.iter().filter(|(_, pod)| is_over(pod)).map(|(uid, _)| uid);
        ending.chain(self.departed.keys()).cloned().collect()
    }

    /// Whether a pod that somebody has known since `known_since` is certainly over at `now`.
    ///
    /// That it is absent counts only once the watch has run unbroken for two minutes since. A static pod of the kubelet is there as long as
    /// the API server shows its mirror.
    pub fn is_over(&self, uid: &PodUid, known_since: Instant, now: Instant) -> bool {
        if let Some(pod) = self.pods.get(uid) {
            return is_over(pod);
        }
        if self.departed.contains_key(uid) {
            return true;
        }
        let watched = self.live_since.map(|live| now.saturating_duration_since(live.max(known_since)));
        watched.is_some_and(|watched| watched >= ABSENCE_GRACE) && !self.is_mirrored(uid)
    }

    fn is_mirrored(&self, uid: &PodUid) -> bool {
        self.pods.values().any(|pod| annotation(pod, MIRROR_ANNOTATION) == Some(uid.as_str()))
    }

    /// Takes a pod as it is now; whether anything that matters has changed.
    fn apply(&mut self, uid: PodUid, pod: Pod) -> bool {
        let back = self.departed.remove(&uid).is_some();
        let known = self.pods.get(&uid);
        let changed = known.is_none_or(|known| !prune::same(known, &pod));
        self.pods.insert(uid, pod.into());
        back || changed
    }

    /// Takes note that a pod went.
    fn depart(&mut self, uid: &PodUid, now: Instant) -> bool {
        let known = self.pods.remove(uid).is_some();
        if known {
            self.departed.insert(uid.clone(), now);
            self.forget(now);
        }
        known
    }

    /// Takes a complete list in place of what was known; whether anything that matters has changed.
    fn replace(&mut self, listed: BTreeMap<PodUid, Pod>, now: Instant) -> bool {
        let gone: Vec<_> = self.pods.keys().filter(|uid| !listed.contains_key(*uid)).cloned().collect();
        let mut changed = !self.synced;
        self.synced = true;
        for uid in gone {
            changed |= self.depart(&uid, now);
        }
        for (uid, pod) in listed {
            changed |= self.apply(uid, pod);
        }
        changed
    }

    /// The watch runs from what is known on.
    fn begin(&mut self, now: Instant) -> bool {
        let begins = self.live_since.is_none() || self.stale_since.is_some();
        self.live_since = self.live_since.or(Some(now));
        self.stale_since = None;
        begins
    }

    /// The watch is broken.
    fn break_off(&mut self, now: Instant) -> bool {
        self.live_since = None;
        let fresh = self.stale_since.is_none();
        self.stale_since = self.stale_since.or(Some(now));
        fresh
    }

    fn forget(&mut self, now: Instant) {
        self.departed.retain(|_, at| now.saturating_duration_since(*at) < REMEMBERED);
        while self.departed.len() > MAX_REMEMBERED {
            let Some(oldest) = self.departed.iter().min_by_key(|(_, at)| **at).map(|(uid, _)| uid.clone()) else {
                return;
            };
            self.departed.remove(&oldest);
        }
    }
}

fn annotation<'p>(pod: &'p Pod, key: &str) -> Option<&'p str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

#[cfg(test)]
mod tests;
