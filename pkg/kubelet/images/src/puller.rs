//! When a pull has its turn: how many run at once, and how many begin in a second (Kubernetes, `pkg/kubelet/images/puller.go`).

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Limits on pulls of the node, with the kubelet's names.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PullLimits {
    /// How many pulls run at once.
    pub parallel: ParallelPulls,
    /// How many pulls may begin; `None` for no limit.
    pub rate: Option<PullRate>,
}

/// How many pulls run at once. Those that have to wait get their turn in the order in which they came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ParallelPulls {
    /// `serializeImagePulls: false` without `maxParallelImagePulls`.
    #[default]
    Unlimited,
    /// `maxParallelImagePulls`.
    AtMost(NonZeroU32),
    /// `serializeImagePulls: true`: one. (The kubelet's queue of ten before the worker makes the eleventh wait to wait, which
    /// nobody can see.)
    Serial,
}

/// A token bucket: `registryPullQPS` and `registryBurst`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PullRate {
    /// Tokens that come in per second.
    pub qps: f64,
    /// Tokens that the bucket holds. With none, no pull begins.
    pub burst: u32,
}

/// Gives out turns.
#[derive(Debug)]
pub(crate) struct Puller {
    turns: Option<Arc<Semaphore>>,
    bucket: Option<Mutex<Bucket>>,
}

/// A pull's turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn(#[expect(dead_code, reason = "held for its drop")] Option<OwnedSemaphorePermit>);

/// (client-go, `util/flowcontrol`, `TryAccept`.)
#[derive(Debug)]
struct Bucket {
    rate: PullRate,
    tokens: f64,
    filled_at: Instant,
}

// === impl Puller ===

impl Puller {
    pub(crate) fn new(limits: PullLimits, now: Instant) -> Self {
        let turns = match limits.parallel {
            ParallelPulls::Unlimited => None,
            ParallelPulls::AtMost(most) => Some(usize::try_from(most.get()).unwrap_or(Semaphore::MAX_PERMITS)),
            ParallelPulls::Serial => Some(1),
        };
        let full = |rate: PullRate| Mutex::new(Bucket { rate, tokens: f64::from(rate.burst), filled_at: now });
        Self {
            turns: turns.map(|turns| Arc::new(Semaphore::new(turns.min(Semaphore::MAX_PERMITS)))),
            bucket: limits.rate.map(full),
        }
    }

    /// Waits for a turn. Dropping the future gives up the place.
    pub(crate) async fn turn(&self) -> Turn {
        let Some(turns) = &self.turns else { return Turn(None) };
        // The semaphore is never closed, so that a turn always comes.
        Turn(Arc::clone(turns).acquire_owned().await.ok())
    }

    /// Whether a pull may begin at `now`: asks, does not wait.
    pub(crate) fn may_begin(&self, now: Instant) -> bool {
        let Some(bucket) = &self.bucket else { return true };
        bucket.lock().unwrap_or_else(PoisonError::into_inner).take(now)
    }
}

// === impl Bucket ===

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.tokens = (self.tokens + since * self.rate.qps).min(f64::from(self.rate.burst));
        self.filled_at = self.filled_at.max(now);
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn limited(qps: f64, burst: u32, now: Instant) -> Puller {
        Puller::new(PullLimits { rate: Some(PullRate { qps, burst }), ..PullLimits::default() }, now)
    }

    #[test]
    fn a_bucket_empties_and_fills() {
        let now = Instant::now();
        let puller = limited(2.0, 2, now);
        let asked: Vec<_> = [0, 0, 0, 500, 500, 5000, 5000, 5000]
            .into_iter()
            .map(|after| puller.may_begin(now + Duration::from_millis(after)))
            .collect();
        assert_eq!(asked, [true, true, false, true, false, true, true, false]);
    }

    #[test]
    fn without_burst_nothing_begins_and_without_rate_everything() {
        let now = Instant::now();
        assert!(!limited(5.0, 0, now).may_begin(now + Duration::from_hours(1)));
        assert!(Puller::new(PullLimits::default(), now).may_begin(now));
    }

    #[tokio::test]
    async fn turns_come_back_when_dropped_and_go_in_order() {
        let limits = PullLimits { parallel: ParallelPulls::Serial, rate: None };
        let puller = Puller::new(limits, Instant::now());
        let first = puller.turn().await;
        let (mut second, mut third) = (Box::pin(puller.turn()), Box::pin(puller.turn()));
        assert!(futures_util::poll!(&mut second).is_pending());
        assert!(futures_util::poll!(&mut third).is_pending());
        drop(first);
        assert!(futures_util::poll!(&mut third).is_pending());
        drop(second);
        assert!(futures_util::poll!(&mut third).is_ready(), "a caller that left gives its place up");
    }

    proptest! {
        /// In any window no more pulls begin than the burst and what came in meanwhile.
        #[test]
        fn keeps_the_rate(gaps in prop::collection::vec(0_u64..2000, 1..60), burst in 0_u32..5) {
            let start = Instant::now();
            let (puller, mut now, mut begun) = (limited(3.0, burst, start), start, 0_u32);
            for gap in gaps {
                now += Duration::from_millis(gap);
                begun += u32::from(puller.may_begin(now));
                prop_assert!(f64::from(begun) <= f64::from(burst) + now.duration_since(start).as_secs_f64() * 3.0 + 1e-6);
            }
        }
    }
}
