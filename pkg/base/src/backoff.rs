//! Back-off between operations on the same thing, as the kubelet keeps it (client-go, `util/flowcontrol/backoff.go`).

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// How much longer each delay is than the one before (client-go, `Backoff.Next`).
const FACTOR: u32 = 2;
/// After how many times the longest delay a key counts as never having failed (client-go, `hasExpired`).
const EXPIRY: u32 = 2;

/// Delays between attempts, one row of them per key: `initial`, doubling with each failure up to `cap`, no jitter.
///
/// It is a table, not a timer: time is an argument of each call. An entry that has not been touched for more than twice
/// `cap` counts as absent. Success does not clear an entry: who fails soon after a success goes on where he was.
#[derive(Debug, Clone)]
pub struct KeyedBackoff<K> {
    initial: Duration,
    cap: Duration,
    entries: HashMap<K, Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    delay: Duration,
    failed_at: Instant,
}

// === impl KeyedBackoff ===

impl<K: Eq + Hash> KeyedBackoff<K> {
    /// An empty table whose delays are `initial`, twice that, and so on, at most `cap`.
    pub fn new(initial: Duration, cap: Duration) -> Self {
        Self { initial: initial.min(cap), cap, entries: HashMap::new() }
    }

    /// Notes a failure of `key` at `now`; the answer is how long it has to wait now.
    pub fn next(&mut self, key: K, now: Instant) -> Duration {
        let delay = match self.live(&key, now) {
            Some(entry) => entry.delay.saturating_mul(FACTOR).min(self.cap),
            None => self.initial,
        };
        self.entries.insert(key, Entry { delay, failed_at: now });
        delay
    }

    /// How much longer `key` has to wait at `now`, never zero; `None` if it need not.
    pub fn in_backoff<Q>(&self, key: &Q, now: Instant) -> Option<Duration>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let entry = self.live(key, now)?;
        let waited = now.saturating_duration_since(entry.failed_at);
        entry.delay.checked_sub(waited).filter(|left| !left.is_zero())
    }

    /// When `key` failed last; `None` if it has not, or so long ago that it counts as if it had not.
    pub fn failed_at<Q>(&self, key: &Q, now: Instant) -> Option<Instant>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.live(key, now).map(|entry| entry.failed_at)
    }

    /// Drops the entries that count as absent at `now`.
    pub fn gc(&mut self, now: Instant) {
        let lifetime = self.lifetime();
        self.entries.retain(|_, entry| !entry.is_older_than(lifetime, now));
    }

    /// Drops every key that `keep` does not want: whoever owned it starts anew.
    pub fn retain(&mut self, mut keep: impl FnMut(&K) -> bool) {
        self.entries.retain(|key, _| keep(key));
    }

    fn live<Q>(&self, key: &Q, now: Instant) -> Option<Entry>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let entry = self.entries.get(key).copied()?;
        (!entry.is_older_than(self.lifetime(), now)).then_some(entry)
    }

    fn lifetime(&self) -> Duration {
        self.cap.saturating_mul(EXPIRY)
    }
}

// === impl Entry ===

impl Entry {
    fn is_older_than(self, age: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.failed_at) > age
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// The kubelet's for image pulls.
    fn kubelet() -> KeyedBackoff<&'static str> {
        KeyedBackoff::new(10 * SECOND, 300 * SECOND)
    }

    #[test]
    fn doubles_from_ten_seconds_to_five_minutes() {
        let (mut backoff, mut now, mut delays) = (kubelet(), Instant::now(), Vec::new());
        for _ in 0..7 {
            let delay = backoff.next("key", now);
            delays.push(delay.as_secs());
            now += delay;
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
    }

    #[rstest]
    #[case::at_once(0, Some(10))]
    #[case::in_the_window(9, Some(1))]
    #[case::at_its_end(10, None)]
    #[case::long_after(601, None)]
    fn says_how_much_is_left(#[case] after: u64, #[case] left: Option<u64>) {
        let (mut backoff, start) = (kubelet(), Instant::now());
        backoff.next("key", start);
        assert_eq!(backoff.in_backoff("key", start + Duration::from_secs(after)).map(|left| left.as_secs()), left);
    }

    #[rstest]
    #[case::just_alive(600, 20)]
    #[case::expired(601, 10)]
    fn starts_anew_after_twice_the_cap(#[case] idle: u32, #[case] delay: u64) {
        let (mut backoff, start) = (kubelet(), Instant::now());
        backoff.next("key", start);
        assert_eq!(backoff.next("key", start + SECOND * idle).as_secs(), delay);
    }

    #[test]
    fn keys_do_not_touch_each_other() {
        let (mut backoff, now) = (kubelet(), Instant::now());
        backoff.next("a", now);
        assert_eq!(backoff.in_backoff("b", now), None);
        backoff.retain(|key| *key != "a");
        assert_eq!(backoff.in_backoff("a", now), None);
        assert_eq!(backoff.failed_at("a", now), None);
    }

    #[test]
    fn sweeps_what_has_expired_only() {
        let (mut backoff, start) = (kubelet(), Instant::now());
        backoff.next("old", start);
        backoff.next("young", start + SECOND);
        backoff.gc(start + 601 * SECOND);
        assert_eq!(backoff.entries.keys().collect::<Vec<_>>(), [&"young"]);
    }

    proptest! {
        /// Whatever the failures: a delay is between the first and the cap, grows while they come soon, and what is left of it
        /// counts down with time.
        #[test]
        fn delays_stay_in_bounds_and_count_down(gaps in prop::collection::vec(0_u64..1000, 1..40), probe in 0_u64..700) {
            let (mut backoff, mut now, mut last) = (kubelet(), Instant::now(), Duration::ZERO);
            for gap in gaps {
                now += Duration::from_secs(gap);
                let delay = backoff.next("key", now);
                prop_assert!(delay >= 10 * SECOND && delay <= 300 * SECOND);
                prop_assert!(gap > 600 || delay >= last);
                last = delay;
            }
            let probe = Duration::from_secs(probe);
            let left = backoff.in_backoff("key", now + probe);
            prop_assert_eq!(left, last.checked_sub(probe).filter(|left| !left.is_zero()));
        }

        /// A sweep changes no answer.
        #[test]
        fn a_sweep_is_invisible(idle in 0_u64..2000) {
            let (mut swept, start) = (kubelet(), Instant::now());
            swept.next("key", start);
            let kept = swept.clone();
            let now = start + Duration::from_secs(idle);
            swept.gc(now);
            prop_assert_eq!(swept.in_backoff("key", now), kept.in_backoff("key", now));
            prop_assert_eq!(swept.clone().next("key", now), kept.clone().next("key", now));
        }
    }
}
