//! `wait`: looks at a pod again and again until it is as wanted, or time is up.

use std::time::Duration;

use imagevol_api::corev1::Pod;
use tokio::time::{Instant, sleep_until};

use crate::cli::{Condition, Wait};
use crate::error::{CommandError, Result};
use crate::pods;
use crate::session::{self, Failures, Session};
use crate::target::{Resource, Target};
use crate::text;

/// How long between the first looks: a pod whose image is present takes about as long.
const SHORTEST: Duration = Duration::from_millis(5);
/// How long between two looks at most: short for a person, and next to nothing for the daemon, which answers from memory.
const LONGEST: Duration = Duration::from_millis(250);
/// Between two looks lies this part of the time waited so far, so that looking adds little to what is waited for.
const PART: u32 = 8;

/// Waits for each pod in turn, each with the whole timeout, as kubectl does.
pub(super) async fn run(session: &Session, arguments: &Wait) -> Result<()> {
    let mut failures = Failures::default();
    for name in Target::named(&arguments.target, &[Resource::Pods])?.names {
        if failures.sort(one(session, arguments, &name).await).is_some() {
            session::print(&format!("pod/{} condition met\n", text::line(&name)))?;
        }
    }
    failures.result()
}

async fn one(session: &Session, arguments: &Wait, name: &str) -> Result<()> {
    let path = session.path("pods", Some(name));
    let start = Instant::now();
    // A timeout beyond what the clock counts is none.
    let deadline = start.checked_add(arguments.timeout);
    loop {
        let pod: Pod = session.client.get(&path).await?;
        if is_met(&pod, name, arguments.condition)? {
            return Ok(());
        }
        let next = Instant::now() + interval(start.elapsed());
        if deadline.is_some_and(|deadline| next > deadline) {
            return last_look(session, arguments, (name, deadline)).await;
        }
        sleep_until(next).await;
    }
}

/// How long until the next look, after so long a wait.
fn interval(waited: Duration) -> Duration {
    (waited / PART).clamp(SHORTEST, LONGEST)
}

/// One more look when time is up, so that what happened in the last moment counts.
async fn last_look(session: &Session, arguments: &Wait, (name, deadline): (&str, Option<Instant>)) -> Result<()> {
    if let Some(deadline) = deadline.filter(|_| !arguments.timeout.is_zero()) {
        sleep_until(deadline).await;
        let pod: Pod = session.client.get(&session.path("pods", Some(name))).await?;
        if is_met(&pod, name, arguments.condition)? {
            return Ok(());
        }
    }
    Err(CommandError::TimedOut { pod: name.to_owned() })
}

/// Whether the pod is as wanted; an error where it cannot become so any more.
fn is_met(pod: &Pod, name: &str, condition: Condition) -> Result<bool> {
    let failed = pods::is_failed(pod);
    match condition {
        Condition::Failed => Ok(failed),
        Condition::Mounted if failed => {
            Err(CommandError::PodFailed { pod: name.to_owned(), why: pods::why_failed(pod) })
        }
        Condition::Mounted => Ok(pods::all_mounted(pod)),
    }
}
