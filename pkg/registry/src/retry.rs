//! When one operation tries again before its caller hears of a failure.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

use crate::config::Retries;
use crate::error::RegistryError;

/// The attempts that one operation has left.
#[derive(Debug)]
pub(crate) struct Attempts {
    retries: Retries,
    delays: ExponentialBackoff,
}

// === impl Attempts ===

impl Attempts {
    pub(crate) fn new(retries: Retries) -> Self {
        Self { retries, delays: delays(&retries) }
    }

    /// Starts the count anew, after progress.
    pub(crate) fn reset(&mut self) {
        self.delays = delays(&self.retries);
    }

    /// How long to wait before trying again after `error`; `None` if it is to be returned.
    pub(crate) fn after(&mut self, error: &RegistryError) -> Option<Duration> {
        if !error.is_worth_a_retry() {
            return None;
        }
        let wanted = error.retry_after().unwrap_or_default();
        if wanted > self.retries.max_retry_after {
            return None;
        }
        self.delays.next().map(|delay| delay.max(wanted))
    }
}

fn delays(retries: &Retries) -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(retries.min_delay)
        .with_max_delay(retries.max_delay)
        .with_max_times(retries.attempts)
        .with_jitter()
        .build()
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::error::{Answer, Asked, Subject};

    fn throttled(seconds: Option<u64>) -> RegistryError {
        let asked = Asked { repository: "a".to_owned(), subject: Subject::Tags };
        let answer = Answer::new("r", StatusCode::TOO_MANY_REQUESTS, b"", asked, &[]);
        RegistryError::Throttled { answer: Box::new(answer), retry_after: seconds.map(Duration::from_secs) }
    }

    #[test]
    fn waits_as_long_as_it_is_told_and_no_longer_than_it_may() {
        let mut attempts = Attempts::new(Retries::default());
        assert!(attempts.after(&throttled(Some(20))).unwrap() >= Duration::from_secs(20));
        assert_eq!(attempts.after(&throttled(Some(3600))), None);
    }

    #[test]
    fn gives_up_after_some_attempts_unless_there_is_progress() {
        let mut attempts = Attempts::new(Retries { attempts: 2, ..Retries::default() });
        assert!(attempts.after(&throttled(None)).is_some());
        assert!(attempts.after(&throttled(None)).is_some());
        assert_eq!(attempts.after(&throttled(None)), None);
        attempts.reset();
        assert!(attempts.after(&throttled(None)).is_some());
    }

    #[test]
    fn final_errors_are_returned_at_once() {
        let mut attempts = Attempts::new(Retries::default());
        assert_eq!(attempts.after(&RegistryError::Internal { registry: "r".to_owned() }), None);
    }
}
