//! Failed pulls: who has to wait, and why.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use imagevol_api::names::PodUid;
use imagevol_api::oci::Platform;
use imagevol_base::{Holder, KeyedBackoff};
use tokio::time::Instant;

use crate::claims::ClaimsShape;
use crate::error::PullError;
use crate::manager::EnsureImage;

/// Delays between pulls of one image for one pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffLimits {
    /// The first.
    pub initial: Duration,
    /// The longest.
    pub cap: Duration,
}

/// What a failure counts for: the kubelet's `<pod UID>_<image as written>`, and what the kubelet does not know: the platform, and
/// how much a door showed. The volumes of a pod share it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PullKey {
    owner: Owner,
    image: String,
    platform: Option<Platform>,
    claims: ClaimsShape,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Owner {
    Pod(PodUid),
    Node(Holder),
}

/// Back-off of failed pulls, with the last error of each. Kept in memory alone: a restart starts anew, as the kubelet's does.
#[derive(Debug)]
pub(crate) struct Failures(Mutex<State>);

#[derive(Debug)]
struct State {
    backoff: KeyedBackoff<PullKey>,
    last: HashMap<PullKey, PullError>,
}

/// What an earlier failure demands.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    pub(crate) retry_in: Duration,
    pub(crate) last: Option<PullError>,
}

// === impl BackoffLimits ===

impl Default for BackoffLimits {
    /// The kubelet's (`pkg/kubelet/kubelet.go`, `imageBackOffPeriod`, `MaxImageBackOff`).
    fn default() -> Self {
        Self { initial: Duration::from_secs(10), cap: Duration::from_mins(5) }
    }
}

// === impl PullKey ===

impl PullKey {
    pub(crate) fn new(request: &EnsureImage<'_>) -> Self {
        let owner = match &request.holder {
            Holder::Volume { pod, .. } => Owner::Pod(pod.clone()),
            Holder::Csi(target) => Owner::Pod(target.pod.clone()),
            other @ (Holder::Command { .. } | Holder::Prefetch { .. } | Holder::External { .. }) => {
                Owner::Node(other.clone())
            }
        };
        let (image, platform) = (request.reference.to_owned(), request.platform.cloned());
        Self { owner, image, platform, claims: request.claims.shape() }
    }
}

// === impl Failures ===

impl Failures {
    pub(crate) fn new(limits: BackoffLimits) -> Self {
        let backoff = KeyedBackoff::new(limits.initial, limits.cap);
        Self(Mutex::new(State { backoff, last: HashMap::new() }))
    }

    /// What the last failure of `key` demands at `now`; nothing if a pull may begin, and then its error is forgotten, so that
    /// nobody shows it any more.
    pub(crate) fn begin(&self, key: &PullKey, now: Instant) -> Option<Waiting> {
        let mut state = self.lock();
        let Some(retry_in) = state.backoff.in_backoff(key, now) else {
            state.last.remove(key);
            return None;
        };
        Some(Waiting { retry_in, last: state.last.get(key).cloned() })
    }

    /// Notes that a pull which began at `began` failed at `now`.
    ///
    /// Of pulls that ran at the same time only the first failure lengthens the delay: two volumes of one pod with the same
    /// image fail together, and that is one failure.
    pub(crate) fn failed(&self, key: PullKey, error: PullError, began: Instant, now: Instant) {
        let mut state = self.lock();
        if state.backoff.failed_at(&key, now).is_none_or(|failed_at| failed_at < began) {
            state.backoff.next(key.clone(), now);
        }
        state.last.insert(key, error);
    }

    /// Sweeps what has expired. A success does this and no more: it does not end the back-off of its key (kubelet, `pullImage`).
    pub(crate) fn gc(&self, now: Instant) {
        let State { backoff, last } = &mut *self.lock();
        backoff.gc(now);
        last.retain(|key, _| backoff.failed_at(key, now).is_some());
    }

    /// Forgets the failures of a pod.
    pub(crate) fn forget(&self, pod: &PodUid) {
        let kept = |key: &PullKey| key.owner != Owner::Pod(pod.clone());
        let mut state = self.lock();
        state.backoff.retain(kept);
        state.last.retain(|key, _| kept(key));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use imagevol_api::corev1::ObjectReference;
    use imagevol_cri::Progress;

    use super::*;
    use crate::claims::Claims;
    use crate::policy::PullPolicy;

    const SECOND: Duration = Duration::from_secs(1);

    fn key(pod: &str, volume: &str, image: &str) -> PullKey {
        let request = EnsureImage {
            pod: &Arc::default(),
            holder: Holder::Volume { pod: pod.parse().unwrap(), volume: volume.parse().unwrap() },
            reference: image,
            platform: None,
            policy: PullPolicy::Always,
            about: &ObjectReference::default(),
            claims: &Claims::default(),
            progress: &Progress::default(),
        };
        PullKey::new(&request)
    }

    fn error() -> PullError {
        PullError::QpsExceeded
    }

    fn retry_in(failures: &Failures, key: &PullKey, now: Instant) -> Option<u64> {
        failures.begin(key, now).map(|waiting| waiting.retry_in.as_secs())
    }

    #[test]
    fn volumes_of_a_pod_share_a_key_and_pods_do_not() {
        assert_eq!(key("p", "a", "i"), key("p", "b", "i"));
        assert_ne!(key("p", "a", "i"), key("q", "a", "i"));
        assert_ne!(key("p", "a", "i"), key("p", "a", "i:latest"), "by the image as written");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_at_the_same_time_count_once() {
        let (failures, key, start) = (Failures::new(BackoffLimits::default()), key("p", "a", "i"), Instant::now());
        failures.failed(key.clone(), error(), start, start + SECOND);
        failures.failed(key.clone(), error(), start, start + 2 * SECOND);
        assert_eq!(retry_in(&failures, &key, start + 2 * SECOND), Some(9));
        let again = start + 11 * SECOND;
        assert_eq!(retry_in(&failures, &key, again), None);
        failures.failed(key.clone(), error(), again, again);
        assert_eq!(retry_in(&failures, &key, again), Some(20));
    }

    #[tokio::test(start_paused = true)]
    async fn a_beginning_forgets_the_error_and_keeps_the_progression() {
        let (failures, key, start) = (Failures::new(BackoffLimits::default()), key("p", "a", "i"), Instant::now());
        failures.failed(key.clone(), error(), start, start);
        assert!(failures.begin(&key, start).unwrap().last.is_some());
        assert!(failures.begin(&key, start + 10 * SECOND).is_none());
        assert!(failures.begin(&key, start).unwrap().last.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn forgets_one_pod() {
        let (failures, start) = (Failures::new(BackoffLimits::default()), Instant::now());
        let [mine, other] = [key("p", "a", "i"), key("q", "a", "i")];
        failures.failed(mine.clone(), error(), start, start);
        failures.failed(other.clone(), error(), start, start);
        failures.forget(&"p".parse().unwrap());
        assert_eq!(retry_in(&failures, &mine, start), None);
        assert_eq!(retry_in(&failures, &other, start), Some(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sweep_drops_errors_that_nobody_waits_for() {
        let (failures, key, start) = (Failures::new(BackoffLimits::default()), key("p", "a", "i"), Instant::now());
        failures.failed(key, error(), start, start);
        failures.gc(start + 601 * SECOND);
        assert!(failures.lock().last.is_empty());
    }
}
