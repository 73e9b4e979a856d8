//! `get references`: every row that keeps an image.

use imagevol_api::daemon::{HeldReference, ReferenceList};

use super::get::Columns;
use super::listing::{Listing, NONE};
use super::prefetch::until;
use crate::cli::Get;
use crate::error::{CommandError, Result};
use crate::session::Session;
use crate::text::Clock;

/// `get references`.
pub(super) async fn get(session: &Session, arguments: &Get, names: &[String]) -> Result<()> {
    if !names.is_empty() {
        return Err(CommandError::Usage(
            "`get references` lists them all; `imagevol why IMAGE` tells those of an image",
        ));
    }
    let list: ReferenceList = session.client.get("/references").await?;
    let columns = Columns::of(arguments);
    listing(&list, columns, &session.clock).show(arguments.output, columns)
}

/// Holders as people know them; their keys are for programs, and in the wide table.
fn listing<'l>(list: &'l ReferenceList, columns: Columns, clock: &Clock) -> Listing<'l, ReferenceList> {
    let mut headings = vec!["HOLDER", "REFERENCE", "IMAGE", "AGE", "EXPIRES"];
    if columns.wide {
        headings.push("KEY");
    }
    Listing {
        list,
        names: list.items.iter().map(|row| format!("reference/{}", row.holder)).collect(),
        headings,
        rows: list.items.iter().map(|row| cells(row, columns, clock)).collect(),
        empty: "No references found.",
    }
}

fn cells(row: &HeldReference, columns: Columns, clock: &Clock) -> Vec<String> {
    let holder = if row.name.is_empty() { &row.holder } else { &row.name };
    let image = match &row.image {
        None => NONE.to_owned(),
        Some(image) if columns.wide => image.to_string(),
        Some(image) => image.short().to_owned(),
    };
    let expires = until(row.expires.as_deref(), clock);
    let mut cells = vec![holder.clone(), row.reference.clone(), image, clock.age_since(&row.since), expires];
    if columns.wide {
        cells.push(row.holder.clone());
    }
    cells
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use jiff::tz::TimeZone;
    use serde_json::json;

    use super::*;

    #[test]
    fn holders_are_told_by_name_and_keys_are_wide() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let list: ReferenceList = serde_json::from_value(json!({"items": [
            {"holder": "volume/0f3b/site", "name": "pod default/web volume site", "reference": "quay.io/a:1", "image": digest, "since": "1970-01-01T00:00:00Z"},
            {"holder": "external/backup/nightly", "reference": "quay.io/\u{1b}b:1", "since": "1970-01-01T00:00:00Z", "expires": "1970-01-01T00:05:00Z"},
        ]}))
        .unwrap();
        let clock = Clock { now: Timestamp::UNIX_EPOCH, zone: TimeZone::UTC };
        let columns = Columns { wide: false, namespaces: false, headings: true };
        let text = "\
HOLDER                        REFERENCE           IMAGE          AGE   EXPIRES
pod default/web volume site   quay.io/a:1         000000000000   0s    <none>
external/backup/nightly       quay.io/\\u{1b}b:1   <none>         0s    in 5m
";
        assert_eq!(listing(&list, columns, &clock).table(columns), text);
        let wide = Columns { wide: true, ..columns };
        let text = listing(&list, wide, &clock).table(wide);
        assert!(text.contains("EXPIRES   KEY\n") && text.contains("<none>    volume/0f3b/site\n"), "{text}");
        assert_eq!(
            listing(&list, wide, &clock).named(),
            "reference/volume/0f3b/site\nreference/external/backup/nightly\n"
        );
    }
}
