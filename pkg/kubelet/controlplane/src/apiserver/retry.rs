//! How long to wait between attempts.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::time::Duration;

/// After the first failure (client-go `tools/cache/reflector.go`, `backoffManager`).
const FIRST: Duration = Duration::from_millis(800);
/// At most, before what chance adds (same place).
const LONGEST: Duration = Duration::from_secs(30);
/// Each is this much longer than the one before (same place).
const FACTOR: u32 = 2;

/// Delays that grow with each failure in a row. Pure: chance is an argument.
#[derive(Debug, Default)]
pub(super) struct Retry {
    last: Option<Duration>,
}

// === impl Retry ===

impl Retry {
    /// How long to wait after one more failure; `chance`, from 0 to 255, spreads nodes that lost the same server over twice the time.
    pub(super) fn after_failure(&mut self, chance: u8) -> Duration {
        let delay = self.last.map_or(FIRST, |last| last.saturating_mul(FACTOR).min(LONGEST));
        self.last = Some(delay);
        delay.saturating_add(delay.saturating_mul(u32::from(chance)) / 256)
    }

    /// It works again.
    pub(super) fn reset(&mut self) {
        self.last = None;
    }
}

/// From 0 to 255, another one each time: the standard library's hash keys are random.
pub(super) fn chance() -> u8 {
    let [byte, ..] = RandomState::new().hash_one(0_u8).to_le_bytes();
    byte
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_half_a_minute_and_begins_anew() {
        let mut retry = Retry::default();
        let delays: Vec<_> = (0..7).map(|_| retry.after_failure(0).as_millis()).collect();
        assert_eq!(delays, [800, 1600, 3200, 6400, 12800, 25600, 30000]);
        retry.reset();
        assert_eq!(retry.after_failure(0).as_millis(), 800);
    }

    #[test]
    fn chance_adds_up_to_as_much_again() {
        let mut retry = Retry::default();
        assert_eq!(retry.after_failure(128).as_millis(), 1200);
        assert!(retry.after_failure(255) < Duration::from_millis(3200));
    }

    #[test]
    fn chance_differs() {
        assert!((0..64).map(|_| chance()).collect::<std::collections::BTreeSet<_>>().len() > 1);
    }
}
