//! `get pulls`: what is being pulled, and how far it is.

use imagevol_api::daemon::{NodeStatus, RunningPull};

use crate::cli::Get;
use crate::error::{CommandError, Result};
use crate::output::{DataFormat, TableFormat};
use crate::session::{self, Session};
use crate::table::Table;
use crate::text::{self, UNKNOWN, human_size};

/// How far all blobs of a pull are that have been begun.
struct Progress {
    done: u64,
    size: u64,
}

/// `get pulls`. Pulls have no names.
pub(super) async fn get(session: &Session, arguments: &Get, names: &[String]) -> Result<()> {
    if !names.is_empty() {
        return Err(CommandError::Usage("pulls have no names: `get pulls` lists them all"));
    }
    let status: NodeStatus = session.client.get("/status").await?;
    match arguments.output {
        Some(TableFormat::Json) => session::print(&DataFormat::Json.render(&status.pulls)?),
        Some(TableFormat::Yaml) => session::print(&DataFormat::Yaml.render(&status.pulls)?),
        Some(TableFormat::Name) => session::print(&names_of(&status.pulls)),
        Some(TableFormat::Wide) | None if status.pulls.is_empty() => session::note("No pulls under way."),
        Some(TableFormat::Wide) | None => session::print(&table(&status.pulls, !arguments.no_headers)),
    }
}

fn names_of(pulls: &[RunningPull]) -> String {
    pulls.iter().map(|pull| format!("pull/{}\n", text::line(&pull.reference))).collect::<Vec<_>>().concat()
}

fn table(pulls: &[RunningPull], headings: bool) -> String {
    let names = ["REFERENCE", "DONE", "SIZE", "PROGRESS", "BLOBS"];
    let mut table = if headings { Table::new(&names) } else { Table::bare() };
    for pull in pulls {
        let progress = Progress::of(pull);
        let size = if progress.size == 0 { UNKNOWN.to_owned() } else { human_size(progress.size) };
        table.row(&[
            pull.reference.clone(),
            human_size(progress.done),
            size,
            progress.percent(),
            pull.blobs.len().to_string(),
        ]);
    }
    table.render()
}

// === impl Progress ===

impl Progress {
    fn of(pull: &RunningPull) -> Self {
        pull.blobs.iter().fold(Self { done: 0, size: 0 }, |sum, blob| Self {
            done: sum.done.saturating_add(blob.done),
            size: sum.size.saturating_add(blob.size),
        })
    }

    fn percent(&self) -> String {
        let share = u128::from(self.done) * 100 / u128::from(self.size.max(1));
        if self.size == 0 { UNKNOWN.to_owned() } else { format!("{}%", share.min(100)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_of_pulls() {
        let blob = |digit: &str, size: u64, done: u64| json!({"digest": format!("sha256:{}", digit.repeat(64)), "size": size, "done": done});
        let pulls: Vec<RunningPull> = serde_json::from_value(json!([
            {"reference": "quay.io/model:v1", "blobs": [blob("0", 2_000_000_000, 500_000_000), blob("1", 1000, 1000)]},
            {"reference": "quay.io/\u{1b}new:v1", "blobs": []},
        ]))
        .unwrap();
        let text = "\
REFERENCE              DONE    SIZE        PROGRESS    BLOBS
quay.io/model:v1       500MB   2GB         25%         2
quay.io/\\u{1b}new:v1   0B      <unknown>   <unknown>   0
";
        assert_eq!(table(&pulls, true), text);
        assert_eq!(names_of(&pulls), "pull/quay.io/model:v1\npull/quay.io/\\u{1b}new:v1\n");
    }
}
