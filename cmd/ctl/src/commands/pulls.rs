//! `get pulls`: what is being pulled, and how far it is.

use std::fmt;

use imagevol_api::daemon::{BlobProgress, NodeStatus, RunningPull};

use super::get::Columns;
use super::listing::Listing;
use crate::cli::Get;
use crate::error::{CommandError, Result};
use crate::session::Session;
use crate::text::{UNKNOWN, human_size};

/// How far all blobs of a pull are that have been begun, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    done: u64,
    size: u64,
}

/// `get pulls`. Pulls have no names.
pub(super) async fn get(session: &Session, arguments: &Get, names: &[String]) -> Result<()> {
    if !names.is_empty() {
        return Err(CommandError::Usage("pulls have no names: `get pulls` lists them all"));
    }
    let status: NodeStatus = session.client.get("/status").await?;
    listing(&status.pulls).show(arguments.output, Columns::of(arguments))
}

fn listing(pulls: &Vec<RunningPull>) -> Listing<'_, Vec<RunningPull>> {
    Listing {
        list: pulls,
        names: pulls.iter().map(|pull| format!("pull/{}", pull.reference)).collect(),
        headings: vec!["REFERENCE", "DONE", "PROGRESS", "BLOBS"],
        rows: pulls.iter().map(row).collect(),
        empty: "No pulls under way.",
    }
}

fn row(pull: &RunningPull) -> Vec<String> {
    let progress = Progress::of(&pull.blobs);
    vec![pull.reference.clone(), human_size(progress.done), progress.to_string(), pull.blobs.len().to_string()]
}

// === impl Progress ===

impl Progress {
    /// The sum over blobs.
    pub(super) fn of(blobs: &[BlobProgress]) -> Self {
        blobs.iter().fold(Self { done: 0, size: 0 }, |sum, blob| Self {
            done: sum.done.saturating_add(blob.done),
            size: sum.size.saturating_add(blob.size),
        })
    }
}

/// `25% of 2GB`; before the manifest is there nothing is known.
impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.size == 0 {
            return f.write_str(UNKNOWN);
        }
        let share = u128::from(self.done) * 100 / u128::from(self.size);
        write!(f, "{}% of {}", share.min(100), human_size(self.size))
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
REFERENCE              DONE    PROGRESS     BLOBS
quay.io/model:v1       500MB   25% of 2GB   2
quay.io/\\u{1b}new:v1   0B      <unknown>    0
";
        let columns = Columns { wide: false, namespaces: false, headings: true };
        assert_eq!(listing(&pulls).table(columns), text);
        assert_eq!(listing(&pulls).named(), "pull/quay.io/model:v1\npull/quay.io/\\u{1b}new:v1\n");
    }
}
