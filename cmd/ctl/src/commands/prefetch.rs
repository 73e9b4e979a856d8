//! `prefetch` and `get prefetch`.

use imagevol_api::daemon::{PrefetchList, PrefetchPhase, PrefetchRequest, Prefetched};
use imagevol_api::metav1::Status;
use jiff::Timestamp;

use super::get::Columns;
use super::listing::{Listing, NONE, or_none};
use super::pull::{self, Asked};
use super::pulls::Progress;
use crate::cli::{Get, Prefetch};
use crate::error::{CommandError, Result};
use crate::output::TableFormat;
use crate::session::{self, Failures, Session};
use crate::text::{self, Clock, human_duration};

/// Fetches one after the other, or forgets them; what fails keeps no other.
pub(super) async fn run(session: &Session, arguments: &Prefetch) -> Result<()> {
    let mut failures = Failures::default();
    for reference in &arguments.references {
        let done = if arguments.forget {
            forget(session, reference).await
        } else {
            fetch(session, arguments, reference).await
        };
        failures.sort(done);
    }
    failures.result()
}

async fn fetch(session: &Session, arguments: &Prefetch, reference: &str) -> Result<()> {
    let request = PrefetchRequest { reference: reference.to_owned(), keep_seconds: arguments.keep.as_secs() };
    let body = serde_json::to_vec(&request).map_err(CommandError::Json)?.into();
    pull::follow(session, Asked { reference, quiet: arguments.quiet, path: "/prefetch", body }).await
}

async fn forget(session: &Session, reference: &str) -> Result<()> {
    let path = format!("/prefetch?reference={}", text::url_part(reference));
    session.client.delete::<Status>(&path).await?;
    session::print(&format!("Forgot {}\n", text::line(reference)))
}

/// `get prefetch`; lists that cannot be used are told after it.
pub(super) async fn get(session: &Session, arguments: &Get, names: &[String]) -> Result<()> {
    if !names.is_empty() {
        return Err(CommandError::Usage("prefetched images have no names: `get prefetch` lists them all"));
    }
    let list: PrefetchList = session.client.get("/prefetch").await?;
    let columns = Columns::of(arguments);
    listing(&list, columns, &session.clock).show(arguments.output, columns)?;
    match arguments.output {
        // Their field says it.
        Some(TableFormat::Json | TableFormat::Yaml) => Ok(()),
        Some(TableFormat::Name | TableFormat::Wide) | None => {
            list.problems.iter().try_for_each(|problem| session::note(&format!("not used: {}", text::line(problem))))
        }
    }
}

fn listing<'l>(list: &'l PrefetchList, columns: Columns, clock: &Clock) -> Listing<'l, PrefetchList> {
    let mut headings = vec!["LIST", "REFERENCE", "STATUS", "PROGRESS", "NEXT PULL", "EXPIRES"];
    if columns.wide {
        headings.extend(["IMAGE", "MESSAGE"]);
    }
    Listing {
        list,
        names: list.items.iter().map(|item| format!("prefetch/{}", item.reference)).collect(),
        headings,
        rows: list.items.iter().map(|item| row(item, columns, clock)).collect(),
        empty: "Nothing is prefetched.",
    }
}

fn row(item: &Prefetched, columns: Columns, clock: &Clock) -> Vec<String> {
    let phase = match item.phase {
        PrefetchPhase::Waiting => "Waiting",
        PrefetchPhase::Pulling => "Pulling",
        PrefetchPhase::Present => "Present",
        PrefetchPhase::Failed => "Failed",
        PrefetchPhase::Ended => "Ended",
    };
    let progress = if item.blobs.is_empty() { NONE.to_owned() } else { Progress::of(&item.blobs).to_string() };
    let mut row = vec![
        item.list.clone().unwrap_or_else(|| "<command>".to_owned()),
        item.reference.clone(),
        phase.to_owned(),
        progress,
        until(item.next_pull.as_deref(), clock),
        until(item.expires.as_deref(), clock),
    ];
    if columns.wide {
        row.push(item.image.as_ref().map_or_else(|| NONE.to_owned(), ToString::to_string));
        row.push(or_none(item.message.as_deref().unwrap_or_default()));
    }
    row
}

/// `in 5m`, `5m ago`; what is no RFC 3339 time is shown as it is.
pub(super) fn until(time: Option<&str>, clock: &Clock) -> String {
    let Some(time) = time else { return NONE.to_owned() };
    match time.parse::<Timestamp>() {
        Ok(moment) if moment > clock.now => format!("in {}", human_duration(moment.duration_since(clock.now))),
        Ok(moment) => format!("{} ago", clock.age(moment)),
        Err(_) => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_of_what_is_prefetched() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let list: PrefetchList = serde_json::from_value(json!({"problems": [], "items": [
            {"list": "models", "reference": "quay.io/a:1", "phase": "Pulling", "blobs": [{"digest": digest, "size": 2000, "done": 500}]},
            {"list": "models", "reference": "quay.io/b:1", "phase": "Failed", "message": "503", "nextPull": "1970-01-01T00:05:00Z", "blobs": []},
            {"reference": "quay.io/\u{1b}c:1", "phase": "Present", "image": digest, "expires": "1970-01-02T00:00:00Z", "blobs": []},
        ]}))
        .unwrap();
        let clock = Clock { now: Timestamp::UNIX_EPOCH, zone: TimeZone::UTC };
        let text = "\
LIST        REFERENCE           STATUS    PROGRESS     NEXT PULL   EXPIRES
models      quay.io/a:1         Pulling   25% of 2kB   <none>      <none>
models      quay.io/b:1         Failed    <none>       in 5m       <none>
<command>   quay.io/\\u{1b}c:1   Present   <none>       <none>      in 24h
";
        let columns = Columns { wide: false, namespaces: false, headings: true };
        assert_eq!(listing(&list, columns, &clock).table(columns), text);
        let wide = Columns { wide: true, ..columns };
        assert!(listing(&list, wide, &clock).table(wide).contains(" 503\n"));
    }
}
