//! Waiting for what a cluster does.

use std::time::Duration;

use tokio::time::Instant;

/// How long anything may take that needs no download of size: a pod's start, an event, a clean-up. Busy machines of two processors need
/// a tenth of it; the kubelet's back-off after three failures is still within.
pub const SOON: Duration = Duration::from_mins(1);
/// Between two questions, each of which starts a process.
const PACE: Duration = Duration::from_millis(200);

/// Asks until there is an answer; panics with the last of what `ask` found instead when time is up.
pub fn until<T, E: std::fmt::Debug>(what: &str, within: Duration, mut ask: impl FnMut() -> Result<T, E>) -> T {
    let end = Instant::now() + within;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(instead) if Instant::now() >= end => panic!("not within {within:?}: {what}; instead: {instead:#?}"),
            // Not a wait for something to happen: the question is asked again in any case.
            Err(_) => std::thread::park_timeout(PACE),
        }
    }
}
