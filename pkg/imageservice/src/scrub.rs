//! The scrub: everything that is stored is read again and held against its digests, slowly, round after round.

use std::sync::Arc;
use std::time::Duration;

use imagevol_base::blocking;
use imagevol_store::{Checked, Part, Result, ScrubPosition};
use tokio::time::{Instant, sleep, sleep_until};

use crate::EmbeddedImageService;
use imagevol_api::text::chain;

/// How often the place of the scrub is kept on disk: a daemon that starts anew checks at most so much again.
const KEEP_PLACE: Duration = Duration::from_mins(1);

/// How soon the scrub goes on when the database did not say where.
const TRY_AGAIN: Duration = Duration::from_mins(1);

/// How the store is scrubbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrubSettings {
    /// How long after the end of a round the next begins.
    pub interval: Duration,
    /// Bytes that are read in a second, at most; 0 is taken for 1.
    pub bytes_per_second: u64,
}

/// Spreads reads over time.
#[derive(Debug)]
struct Pace {
    bytes_per_second: u64,
    free_at: Instant,
}

// === impl Pace ===

impl Pace {
    /// When to go on after so many bytes were read.
    fn spend(&mut self, bytes: u64, now: Instant) -> Instant {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second.max(1));
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        // Time in which nothing was read is not saved up: the disk would not be spared then.
        self.free_at = self.free_at.max(now) + takes;
        self.free_at
    }
}

// === impl EmbeddedImageService ===

impl EmbeddedImageService {
    /// Scrubs for ever. It may be dropped at any time, and goes on where it was when it is run again, in this process or the next.
    ///
    /// Between two reads of a MiB at most nothing is open, and nothing locked: pulls, mounts and removals never wait for it.
    pub async fn scrub(&self, settings: ScrubSettings) {
        let mut pace = Pace { bytes_per_second: settings.bytes_per_second, free_at: Instant::now() };
        loop {
            if let Err(error) = self.scrub_round(settings.interval, &mut pace).await {
                tracing::error!(error = chain(&error), "the scrub is interrupted");
                sleep(TRY_AGAIN).await;
            }
        }
    }

    /// Waits until a round is due, and goes through what is left of it.
    async fn scrub_round(&self, interval: Duration, pace: &mut Pace) -> Result<()> {
        let store = self.store.clone();
        let mut position = blocking(move || store.scrub_position()).await?;
        sleep(due_in(&position, interval, seconds_since_1970())).await;
        let store = self.store.clone();
        let parts = position.rest_of(blocking(move || store.parts()).await?);
        let mut kept = Instant::now();
        for part in parts {
            if let Err(error) = self.scrub_part(&part, pace).await {
                tracing::error!(%part, error = chain(&error), "cannot be checked");
            }
            position = position.after(&part);
            if kept.elapsed() >= KEEP_PLACE {
                self.keep_scrub_position(&position).await?;
                kept = Instant::now();
            }
        }
        let now = seconds_since_1970();
        self.keep_scrub_position(&ScrubPosition::end(now)).await?;
        self.integrity().scrubbed_all(now);
        tracing::info!("everything that is stored has been held against its digests");
        Ok(())
    }

    async fn keep_scrub_position(&self, position: &ScrubPosition) -> Result<()> {
        let (store, position) = (self.store.clone(), position.clone());
        blocking(move || store.keep_scrub_position(&position)).await
    }

    async fn scrub_part(&self, part: &Part, pace: &mut Pace) -> Result<()> {
        let (store, wanted) = (self.store.clone(), part.clone());
        let Some(mut check) = blocking(move || store.check(&wanted)).await? else { return Ok(()) };
        loop {
            let (returned, step) = blocking(move || {
                let step = check.step();
                (check, step)
            })
            .await;
            check = returned;
            match step? {
                Checked::Some(bytes) => {
                    self.integrity().scrubbed(bytes);
                    sleep_until(pace.spend(bytes, Instant::now())).await;
                }
                Checked::All(None) => return Ok(()),
                Checked::All(Some(corrupt)) => {
                    let staging = Arc::clone(&self.staging);
                    return blocking(move || {
                        let quarantined = staging.store.quarantine(&corrupt)?;
                        if let Some(quarantined) = quarantined {
                            staging.taken(&quarantined);
                        }
                        Ok(())
                    })
                    .await;
                }
            }
        }
    }
}

/// How long until a round begins, or goes on. A clock that was set back makes nobody wait for longer than the interval.
fn due_in(position: &ScrubPosition, interval: Duration, now: i64) -> Duration {
    let Some(finished) = position.finished.filter(|_| !position.is_within()) else { return Duration::ZERO };
    let passed = Duration::from_secs(u64::try_from(now.saturating_sub(finished)).unwrap_or(0));
    interval.saturating_sub(passed)
}

fn seconds_since_1970() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use imagevol_store::ContentKey;
    use rstest::rstest;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn reads_no_faster_than_it_may() {
        let mut pace = Pace { bytes_per_second: 1000, free_at: Instant::now() };
        let begin = Instant::now();
        for _ in 0..10 {
            sleep_until(pace.spend(500, Instant::now())).await;
        }
        assert_eq!(begin.elapsed(), Duration::from_secs(5));
        sleep(Duration::from_mins(1)).await;
        assert_eq!(pace.spend(500, Instant::now()) - Instant::now(), Duration::from_millis(500), "nothing is saved up");
    }

    #[rstest]
    #[case::just_ended(0, 60)]
    #[case::some_time_ago(20, 40)]
    #[case::long_ago(600, 0)]
    #[case::clock_was_set_back(-600, 60)]
    fn a_round_is_due_an_interval_after_the_last(#[case] ago: i64, #[case] due: u64) {
        let position = ScrubPosition::end(1_000_000 - ago);
        let due_in = |position: &ScrubPosition| due_in(position, Duration::from_mins(1), 1_000_000).as_secs();
        assert_eq!(due_in(&position), due);
        let part = Part::Content(ContentKey::Blob(imagevol_base::Digester::sha256(b"x")));
        assert_eq!(due_in(&position.after(&part)), 0, "one that was broken off goes on at once");
        assert_eq!(due_in(&ScrubPosition::default()), 0);
    }
}
