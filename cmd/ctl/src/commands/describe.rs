//! `describe pod`.

use super::get;
use crate::cli::Names;
use crate::describe;
use crate::error::Result;
use crate::session::{self, Failures, Session};
use crate::target::{Resource, Target};
use crate::text;

/// Describes the pods named, or all of the namespace.
pub(super) async fn run(session: &Session, arguments: &Names) -> Result<()> {
    let target = Target::parse(&arguments.target, &[Resource::Pods])?;
    let mut failures = Failures::default();
    let pods = get::pods(session, &target.names, &mut failures).await?;
    if pods.is_empty() && target.names.is_empty() {
        return session::note(&format!("No resources found in {} namespace.", text::line(&session.namespace)));
    }
    let mut described = Vec::with_capacity(pods.len());
    for pod in &pods {
        let events = get::events_about(session, pod).await?;
        described.push(describe::pod(pod, &events, &session.clock));
    }
    // kubectl's distance between two descriptions.
    session::print(&described.join("\n\n"))?;
    failures.result()
}
