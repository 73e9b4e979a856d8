//! What to tell a pod's owner about a pull that takes long: seldom, and only if it got on.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

use crate::size::binary as size;

/// `reason` of the events; a kubelet has none.
pub const PULL_PROGRESS: &str = "PullProgress";
/// Between two events about one thing, and before the first. An object's events are cut off after 25, and one more each 5 minutes
/// (client-go `defaultSpamBurst`, `defaultSpamQPS`): hence each is twice as far from the one before, up to that.
const FIRST_INTERVAL: Duration = Duration::from_secs(30);
/// The longest such interval.
const LONGEST_INTERVAL: Duration = Duration::from_mins(5);

/// How far a pull has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that have come.
    pub done: u64,
    /// Bytes that there are; 0 while nobody knows.
    pub total: u64,
}

/// Decides when to tell. Pure: time is an argument.
#[derive(Debug)]
pub struct ProgressThrottle<K> {
    pulls: HashMap<K, Pull>,
}

#[derive(Debug, Clone, Copy)]
struct Pull {
    told: Progress,
    due: Instant,
    interval: Duration,
}

// === impl ProgressThrottle ===

impl<K: Eq + Hash> ProgressThrottle<K> {
    /// A throttle that has seen nothing.
    pub fn new() -> Self {
        Self { pulls: HashMap::new() }
    }

    /// Takes note of how far a pull has got; the text of an event, if one is due: 30 s after the pull was first seen at the earliest, then after
    /// twice as long each time, at most 5 minutes, and never if no more bytes have come since.
    pub fn observe(&mut self, key: K, image: &str, progress: Progress, now: Instant) -> Option<String> {
        let fresh = || Pull { told: progress, due: now + FIRST_INTERVAL, interval: FIRST_INTERVAL };
        let pull = self.pulls.entry(key).or_insert_with(fresh);
        if now < pull.due || progress.done <= pull.told.done {
            return None;
        }
        let interval = pull.interval.saturating_mul(2).min(LONGEST_INTERVAL);
        *pull = Pull { told: progress, due: now + interval, interval };
        Some(progress_text(image, progress))
    }

    /// The pull has ended: the next of the same key is another.
    pub fn forget(&mut self, key: &K) {
        self.pulls.remove(key);
    }

    /// Forgets all that `keep` does not want.
    pub fn retain(&mut self, mut keep: impl FnMut(&K) -> bool) {
        self.pulls.retain(|key, _| keep(key));
    }
}

impl<K: Eq + Hash> Default for ProgressThrottle<K> {
    fn default() -> Self {
        Self::new()
    }
}

/// `Pulling image "X": 3.1 GiB of 14.2 GiB (21%)`; without the whole, while nobody knows it.
pub fn progress_text(image: &str, Progress { done, total }: Progress) -> String {
    if total == 0 {
        return format!("Pulling image {image:?}: {}", size(done));
    }
    // What is left of the last percent is not told as done.
    let percent = u128::from(done.min(total)) * 100 / u128::from(total);
    format!("Pulling image {image:?}: {} of {} ({percent}%)", size(done), size(total))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[rstest]
    #[case::nothing(0, 0, "Pulling image \"r/a:1\": 0 B")]
    #[case::unknown_whole(2048, 0, "Pulling image \"r/a:1\": 2.0 KiB")]
    #[case::large(3_328_599_654, 15_247_133_900, "Pulling image \"r/a:1\": 3.0 GiB of 14.1 GiB (21%)")]
    #[case::almost((1 << 30) - 1, 1 << 30, "Pulling image \"r/a:1\": 1023.9 MiB of 1.0 GiB (99%)")]
    #[case::all(1 << 40, 1 << 40, "Pulling image \"r/a:1\": 1.0 TiB of 1.0 TiB (100%)")]
    #[case::more_than_all(2 << 20, 1 << 20, "Pulling image \"r/a:1\": 2.0 MiB of 1.0 MiB (100%)")]
    fn says_how_far_it_is(#[case] done: u64, #[case] total: u64, #[case] text: &str) {
        assert_eq!(progress_text("r/a:1", Progress { done, total }), text);
    }

    /// At which seconds something is told of a pull that gets on each second.
    fn told(pulling: impl Iterator<Item = (u64, u64)>) -> Vec<u64> {
        let (mut throttle, start) = (ProgressThrottle::new(), Instant::now());
        let mut told = Vec::new();
        for (second, done) in pulling {
            let progress = Progress { done, total: 1_000_000 };
            if throttle.observe("key", "a", progress, start + SECOND * u32::try_from(second).unwrap()).is_some() {
                told.push(second);
            }
        }
        told
    }

    #[test]
    fn tells_less_and_less_often() {
        assert_eq!(told((0..1200).map(|second| (second, second))), [30, 90, 210, 450, 750, 1050]);
    }

    #[test]
    fn says_nothing_of_a_short_pull() {
        assert!(told((0..30).map(|second| (second, second))).is_empty());
    }

    #[test]
    fn says_nothing_while_nothing_comes() {
        assert_eq!(told((0..300).map(|second| (second, second.min(10)))), [30]);
        assert_eq!(told((0..300).map(|second| (second, if second < 200 { 5 } else { 6 }))), [200]);
    }

    #[test]
    fn a_pull_that_ended_is_forgotten() {
        let (mut throttle, start) = (ProgressThrottle::new(), Instant::now());
        let progress = |done| Progress { done, total: 9 };
        assert_eq!(throttle.observe("a", "i", progress(1), start), None);
        throttle.forget(&"a");
        assert_eq!(throttle.observe("a", "i", progress(2), start + 40 * SECOND), None);
        throttle.retain(|_| false);
        assert_eq!(throttle.observe("a", "i", progress(3), start + 80 * SECOND), None);
        assert!(throttle.observe("a", "i", progress(4), start + 110 * SECOND).is_some());
    }

    proptest! {
        /// However a pull gets on, two events are at least half a minute apart, and fewer than the limit of an object come within an hour.
        #[test]
        fn never_tells_too_often(steps in prop::collection::vec((0_u64..60, 0_u64..3), 0..200)) {
            let (mut second, mut done) = (0, 0);
            let pulling = steps.into_iter().map(|(later, more)| {
                second += later;
                done += more;
                (second, done)
            });
            let told = told(pulling.collect::<Vec<_>>().into_iter());
            prop_assert!(told.windows(2).all(|pair| pair[1] - pair[0] >= 30), "{told:?}");
            prop_assert!(told.iter().filter(|second| **second <= 3600).count() < 25);
        }
    }
}
