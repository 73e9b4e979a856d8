//! How fast events may go to the API server.

use std::time::Duration;

use tokio::time::Instant;

/// Between events (kubelet `eventRecordQPS`, default 50).
const INTERVAL: Duration = Duration::from_millis(20);
/// How many of those intervals may be saved up (kubelet `eventBurst`, default 100).
const BURST: u32 = 100;

/// A token bucket, kept as the time at which it would be full.
#[derive(Debug, Default)]
pub(super) struct Pace {
    full_at: Option<Instant>,
}

// === impl Pace ===

impl Pace {
    /// How long to wait at `now` before one more event.
    pub(super) fn next(&mut self, now: Instant) -> Duration {
        let full_at = self.full_at.unwrap_or(now).max(now);
        let free_at = full_at.checked_sub(INTERVAL.saturating_mul(BURST - 1)).unwrap_or(now);
        self.full_at = Some(full_at + INTERVAL);
        free_at.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lets_a_burst_through_and_then_fifty_a_second() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let waits: Vec<_> = (0..102).map(|_| pace.next(start).as_millis()).collect();
        assert!(waits.iter().take(100).all(|wait| *wait == 0), "{waits:?}");
        assert_eq!(waits[100..], [20, 40]);
    }

    #[test]
    fn fills_up_again() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        (0..100).for_each(|_| assert!(pace.next(start).is_zero()));
        let later = start + Duration::from_secs(1);
        assert_eq!((0..60).filter(|_| pace.next(later).is_zero()).count(), 50);
    }
}
