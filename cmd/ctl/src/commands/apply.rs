//! `apply`: manifests go to the daemon as they are; it decodes, validates and stores them.

use imagevol_api::daemon::{ApplyOutcome, ApplyResponse, ApplyResult};
use serde_json::Value;

use crate::cli::{Apply, DryRun};
use crate::error::{CommandError, Result};
use crate::manifests::{self, Manifest};
use crate::output::{self, DataFormat, ObjectFormat};
use crate::session::{self, Failures, Session};
use crate::text;

/// `metav1.NamespaceDefault`.
const DEFAULT_NAMESPACE: &str = "default";

/// Applies every manifest; an object that is refused keeps no other from being applied.
pub(super) async fn run(session: &Session, arguments: &Apply) -> Result<()> {
    let mut failures = Failures::default();
    let mut objects = Vec::new();
    let mut seen = false;
    for manifest in manifests::read_all(&arguments.files)? {
        let answer = send(session, arguments.dry_run, manifest).await;
        let Some(response) = failures.sort(answer) else { continue };
        seen |= !response.results.is_empty();
        for result in response.results {
            match &result.error {
                Some(error) => failures.block(error)?,
                None => show(result, arguments, &mut objects)?,
            }
        }
    }
    if !objects.is_empty() {
        print_objects(arguments.output, objects)?;
    }
    failures.result()?;
    if seen { Ok(()) } else { Err(CommandError::NoObjects { command: "apply" }) }
}

async fn send(session: &Session, dry_run: DryRun, manifest: Manifest) -> Result<ApplyResponse> {
    let mut query = format!("source={}", text::url_part(&manifest.name));
    if dry_run == DryRun::Server {
        query.push_str("&dryRun=All");
    }
    // Objects without a namespace go to the daemon's default one unless another was given.
    if session.namespace != DEFAULT_NAMESPACE {
        text::append(&mut query, format_args!("&namespace={}", text::url_part(&session.namespace)));
    }
    let path = format!("/apply?{query}");
    Ok(session.client.post(&path, manifest.body).await?)
}

/// Prints what became of an object, or keeps the object for the end, when all go into one list.
fn show(result: ApplyResult, arguments: &Apply, objects: &mut Vec<Value>) -> Result<()> {
    let name = format!("{}/{}", result.kind, result.name);
    match arguments.output {
        Some(ObjectFormat::Name) => session::print(&format!("{}\n", text::line(&name))),
        Some(ObjectFormat::Json | ObjectFormat::Yaml) => {
            objects.push(result.object.ok_or(CommandError::NoObjectBack { object: name })?);
            Ok(())
        }
        None => {
            let outcome = outcome(
                result.outcome.ok_or_else(|| CommandError::NoOutcome { object: name.clone() })?,
                arguments.dry_run,
            );
            session::print(&format!("{} {outcome}\n", text::line(&name)))
        }
    }
}

fn outcome(outcome: ApplyOutcome, dry_run: DryRun) -> String {
    let word = match outcome {
        ApplyOutcome::Created => "created",
        ApplyOutcome::Configured => "configured",
        ApplyOutcome::Unchanged => "unchanged",
    };
    match dry_run {
        DryRun::Server => format!("{word} (server dry run)"),
        DryRun::None => word.to_owned(),
    }
}

fn print_objects(format: Option<ObjectFormat>, objects: Vec<Value>) -> Result<()> {
    let format = if format == Some(ObjectFormat::Yaml) { DataFormat::Yaml } else { DataFormat::Json };
    session::print(&format.render(&output::list(objects))?)
}
