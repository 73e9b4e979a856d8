//! The node's own time, in which ages are measured: it goes on while the node runs, stands still while it is switched off, and
//! knows nothing of the wall clock, which may jump by years.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use imagevol_base::collection::NodeTime;
use serde::{Deserialize, Serialize};

use crate::rows::{META, USES, Write};
use crate::store::Store;
use crate::uses::SLACK;
use crate::{Result, StoreError, Use};

/// Identity of the kernel's run (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Its first number is `CLOCK_BOOTTIME`, time asleep included (Linux, `fs/proc/uptime.c`).
const UPTIME: &str = "/proc/uptime";

/// Key of the anchor's row.
const ROW: &str = "clock";

/// What the kernel says of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Which run of the kernel it is.
    pub boot: String,
    /// How long it has run.
    pub since_boot: Duration,
}

/// Where readings come from.
pub trait NodeClock: Send + Sync + fmt::Debug {
    /// Reads it now.
    fn read(&self) -> std::io::Result<Reading>;
}

/// The kernel's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct KernelClock;

/// A clock that goes when a test moves it. Clones are the same clock.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<Mutex<Reading>>);

/// When the node's time was read last: a row.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Anchor {
    /// Which run of the kernel it was.
    boot: String,
    /// How long that had run, seconds.
    at_boot: u64,
    /// What the node's time was.
    time: NodeTime,
}

/// The node's time of one store.
#[derive(Debug)]
pub(crate) struct Clock {
    source: Arc<dyn NodeClock>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    anchor: Anchor,
    /// No time before it is given any more.
    floor: NodeTime,
    /// Whether a row has got the floor itself.
    stamped: bool,
    /// What is on disk.
    kept: NodeTime,
}

// === impl KernelClock ===

impl NodeClock for KernelClock {
    fn read(&self) -> std::io::Result<Reading> {
        let boot = std::fs::read_to_string(Path::new(BOOT_ID))?.trim().to_owned();
        let uptime = std::fs::read_to_string(Path::new(UPTIME))?;
        let seconds = uptime.split('.').next().and_then(|seconds| seconds.parse().ok());
        let wrong = || std::io::Error::new(std::io::ErrorKind::InvalidData, format!("{UPTIME} says {uptime:?}"));
        Ok(Reading { boot, since_boot: Duration::from_secs(seconds.ok_or_else(wrong)?) })
    }
}

// === impl ManualClock ===

impl Default for ManualClock {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Reading { boot: "boot-1".to_owned(), since_boot: Duration::from_secs(1) })))
    }
}

impl ManualClock {
    /// Lets time go on.
    pub fn advance(&self, by: Duration) {
        self.lock().since_boot += by;
    }

    /// Switches the node off and, so much after its new kernel has begun to run, on again.
    pub fn reboot(&self, since_boot: Duration) {
        let mut reading = self.lock();
        *reading = Reading { boot: format!("{}'", reading.boot), since_boot };
    }

    /// Sets what the kernel says.
    pub fn set(&self, reading: Reading) {
        *self.lock() = reading;
    }

    fn lock(&self) -> MutexGuard<'_, Reading> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NodeClock for ManualClock {
    fn read(&self) -> std::io::Result<Reading> {
        Ok(self.lock().clone())
    }
}

// === impl Store ===

impl Store {
    /// Goes on from the time that was written last.
    pub(crate) fn start_clock(&self) -> Result<()> {
        let (anchor, stamps) = self.rows().read(|snapshot| {
            let uses = snapshot.scan::<Use>(USES)?.into_iter().filter_map(|(_, row)| row.ok());
            let stamps: Vec<NodeTime> = uses.map(|row| row.last().max(row.first_seen.time)).collect();
            let anchor = match snapshot.get::<Anchor>(META, ROW) {
                Err(error @ StoreError::Row { .. }) => {
                    tracing::error!(%error, "the clock goes on from the times of other rows");
                    None
                }
                anchor => anchor?,
            };
            Ok((anchor, stamps))
        })?;
        self.inner.clock.go_on(anchor, stamps);
        Ok(())
    }

    /// Writes where the clock is, now and then: time that was not written is lost when the node is switched off.
    pub(crate) fn keep_time(&self) -> Result<()> {
        let clock = &self.inner.clock;
        if !clock.is_behind(SLACK) {
            return Ok(());
        }
        let write = self.rows().write()?;
        clock.keep(&write, SLACK)?;
        write.commit()
    }
}

// === impl Clock ===

impl Clock {
    pub(crate) fn new(source: Arc<dyn NodeClock>) -> Self {
        Self { source, state: Mutex::default() }
    }

    /// Goes on from what a run before has written. `stamps` are times in other rows: none of them lies ahead, whatever became of the
    /// clock's own row.
    pub(crate) fn go_on(&self, anchor: Option<Anchor>, stamps: impl IntoIterator<Item = NodeTime>) {
        let mut state = self.lock();
        let last = stamps.into_iter().max().unwrap_or_default();
        state.anchor = anchor.unwrap_or_else(|| Anchor { time: last, ..self.first_anchor() });
        state.kept = state.anchor.time;
        state.floor = state.anchor.time.max(last);
        state.stamped = true;
    }

    /// Of a store that is new: its time begins now.
    fn first_anchor(&self) -> Anchor {
        let reading = self.source.read().ok();
        reading.map_or_else(Anchor::default, |reading| Anchor {
            boot: reading.boot,
            at_boot: reading.since_boot.as_secs(),
            time: NodeTime::default(),
        })
    }

    pub(crate) fn now(&self) -> NodeTime {
        let mut state = self.lock();
        self.read(&mut state);
        state.floor
    }

    /// A time for a row: every census that began before has an earlier one, or the same.
    pub(crate) fn stamp(&self) -> NodeTime {
        let mut state = self.lock();
        self.read(&mut state);
        state.stamped = true;
        state.floor
    }

    /// The time of a census: later than every stamp that was given before, and no stamp that is given afterwards is earlier. Seconds
    /// are too coarse for that; so it may be one ahead of the clock, which then stands still until it has caught up.
    pub(crate) fn begin_census(&self) -> NodeTime {
        let mut state = self.lock();
        self.read(&mut state);
        if state.stamped {
            state.floor = NodeTime(state.floor.0.saturating_add(1));
            state.stamped = false;
        }
        state.floor
    }

    /// Writes where the clock is, beside stamps, if that has moved by more than `slack`.
    ///
    /// Killed before the commit: a clock that is as much behind as the stamps that were lost with it.
    pub(crate) fn keep(&self, write: &Write<'_>, slack: Duration) -> Result<()> {
        self.due(slack).map_or(Ok(()), |anchor| write.put(META, ROW, &anchor))
    }

    /// What is to be written, which counts as written from now on.
    pub(crate) fn due(&self, slack: Duration) -> Option<Anchor> {
        let mut state = self.lock();
        self.read(&mut state);
        let due = state.anchor.time.since(state.kept) >= slack;
        due.then(|| {
            state.kept = state.anchor.time;
            state.anchor.clone()
        })
    }

    /// Whether [`Clock::keep`] would write.
    pub(crate) fn is_behind(&self, slack: Duration) -> bool {
        let mut state = self.lock();
        self.read(&mut state);
        state.anchor.time.since(state.kept) >= slack
    }

    /// Where time cannot be read it stands still: nothing grows older by mistake.
    fn read(&self, state: &mut State) {
        match self.source.read() {
            Ok(reading) => state.anchor = advance(&state.anchor, &reading),
            Err(error) => tracing::warn!(%error, "cannot read the node's time, which stands still"),
        }
        if state.anchor.time > state.floor {
            state.floor = state.anchor.time;
            state.stamped = false;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The node's time at a reading. In the same run of the kernel it goes on by what has passed, and never back; in another one only
/// by the time since that began.
fn advance(anchor: &Anchor, reading: &Reading) -> Anchor {
    let at_boot = reading.since_boot.as_secs();
    let passed = if anchor.boot == reading.boot { at_boot.saturating_sub(anchor.at_boot) } else { at_boot };
    Anchor { boot: reading.boot.clone(), at_boot, time: NodeTime(anchor.time.0.saturating_add(passed)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn anchor(boot: &str, at_boot: u64, time: u64) -> Anchor {
        Anchor { boot: boot.to_owned(), at_boot, time: NodeTime(time) }
    }

    fn reading(boot: &str, since_boot: u64) -> Reading {
        Reading { boot: boot.to_owned(), since_boot: Duration::from_secs(since_boot) }
    }

    #[rstest]
    #[case::the_same_run(reading("a", 150), 1050)]
    #[case::at_once(reading("a", 100), 1000)]
    #[case::back_in_the_same_run(reading("a", 10), 1000)]
    #[case::another_run(reading("b", 30), 1030)]
    #[case::another_run_that_is_longer(reading("b", 500), 1500)]
    #[case::the_end_of_time(reading("b", u64::MAX), u64::MAX)]
    fn advances(#[case] reading: Reading, #[case] time: u64) {
        assert_eq!(advance(&anchor("a", 100, 1000), &reading).time, NodeTime(time));
    }

    #[test]
    fn a_census_is_after_all_stamps_before_it_and_before_none_after_it() {
        let source = ManualClock::default();
        let clock = Clock::new(Arc::new(source.clone()));
        clock.go_on(None, [NodeTime(7)]);
        let first = clock.stamp();
        let census = clock.begin_census();
        assert!(census > first && clock.stamp() >= census);
        assert!(clock.begin_census() > census);
        source.advance(Duration::from_secs(100));
        // It has not run ahead for good.
        assert_eq!(clock.now().since(first), Duration::from_secs(100));
        assert_eq!(clock.begin_census(), clock.begin_census());
    }

    #[test]
    fn a_clock_that_cannot_be_read_stands_still() {
        #[derive(Debug)]
        struct Broken;
        impl NodeClock for Broken {
            fn read(&self) -> std::io::Result<Reading> {
                Err(std::io::ErrorKind::NotFound.into())
            }
        }
        let clock = Clock::new(Arc::new(Broken));
        clock.go_on(Some(anchor("a", 5, 50)), []);
        assert_eq!((clock.now(), clock.stamp()), (NodeTime(50), NodeTime(50)));
    }

    #[test]
    fn the_kernel_says_something() {
        let reading = KernelClock.read().unwrap();
        assert!(reading.boot.len() == 36 && reading.since_boot > Duration::ZERO, "{reading:?}");
    }

    /// A step of the node: so many seconds pass, or it is switched off and runs so many seconds until it is read.
    fn steps() -> impl Strategy<Value = Vec<(bool, u64)>> {
        prop::collection::vec((any::<bool>(), 0..100_000_u64), 0..40)
    }

    proptest! {
        #[test]
        fn counts_the_seconds_that_the_node_has_run(steps in steps()) {
            let (mut at, mut boot, mut since_boot, mut ran) = (anchor("0", 0, 0), 0, 0, 0);
            for (rebooted, seconds) in steps {
                since_boot = if rebooted { boot += 1; seconds } else { since_boot + seconds };
                ran += seconds;
                at = advance(&at, &reading(&boot.to_string(), since_boot));
                prop_assert_eq!(at.time, NodeTime(ran));
            }
        }

        #[test]
        fn never_goes_back(boot in "[ab]", since_boot in any::<u64>(), time in any::<u64>(), next in "[ab]", then in any::<u64>()) {
            let before = anchor(&boot, since_boot, time);
            let after = advance(&before, &reading(&next, then));
            prop_assert!(after.time >= before.time);
            prop_assert_eq!(advance(&after, &reading(&next, then)), after);
        }
    }
}
