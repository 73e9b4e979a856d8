//! `pin`, `unpin` and `get pins`.

use imagevol_api::daemon::{Pin, PinList};
use imagevol_api::metav1::Status;

use super::get::Columns;
use super::listing::{Listing, or_none};
use crate::cli::{Get, Pins};
use crate::client::ClientError;
use crate::error::{CommandError, Result};
use crate::session::{self, Failures, Session};
use crate::text::{self, Clock, count};

/// Pins each pattern, and says what it covers now.
pub(super) async fn pin(session: &Session, arguments: &Pins) -> Result<()> {
    let mut failures = Failures::default();
    for pattern in &arguments.patterns {
        let answer = session.client.put::<Pin>(&path(pattern)).await;
        if let Some(pin) = failures.sort(answer.map_err(CommandError::from)) {
            session::print(&pinned(&pin))?;
        }
    }
    failures.result()
}

/// Takes each pin back.
pub(super) async fn unpin(session: &Session, arguments: &Pins) -> Result<()> {
    let mut failures = Failures::default();
    for pattern in &arguments.patterns {
        let answer = session.client.delete::<Status>(&path(pattern)).await;
        if failures.sort(answer.map_err(not_unpinned)).is_some() {
            session::print(&format!("Unpinned {}\n", text::line(pattern)))?;
        }
    }
    failures.result()
}

fn not_unpinned(error: ClientError) -> CommandError {
    if error.is_not_found() { CommandError::NoPin(error) } else { CommandError::Client(error) }
}

/// `get pins`. Their patterns are no names.
pub(super) async fn get(session: &Session, arguments: &Get, names: &[String]) -> Result<()> {
    if !names.is_empty() {
        return Err(CommandError::Usage("pins have no names: `get pins` lists them all"));
    }
    let list: PinList = session.client.get("/pins").await?;
    let columns = Columns::of(arguments);
    listing(&list, columns, &session.clock).show(arguments.output, columns)
}

fn path(pattern: &str) -> String {
    format!("/pins?pattern={}", text::url_part(pattern))
}

fn pinned(pin: &Pin) -> String {
    let pattern = text::line(&pin.pattern);
    match u64::try_from(pin.images.len()) {
        Ok(0) => format!("Pinned {pattern}: no image here matches now, those to come will\n"),
        images => format!("Pinned {pattern}: {}\n", count(images.unwrap_or(u64::MAX), "image")),
    }
}

fn listing<'l>(list: &'l PinList, columns: Columns, clock: &Clock) -> Listing<'l, PinList> {
    let images = |pin: &Pin| {
        if columns.wide {
            or_none(&pin.images.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
        } else {
            pin.images.len().to_string()
        }
    };
    let row = |pin: &Pin| vec![pin.pattern.clone(), clock.age_since(&pin.since), images(pin)];
    Listing {
        list,
        names: list.items.iter().map(|pin| format!("pin/{}", pin.pattern)).collect(),
        headings: vec!["PATTERN", "AGE", "IMAGES"],
        rows: list.items.iter().map(row).collect(),
        empty: "No pins found.",
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use jiff::tz::TimeZone;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_of_pins() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let list: PinList = serde_json::from_value(json!({"items": [
            {"pattern": "quay.io/models/*", "since": "1970-01-01T00:00:00Z", "images": [digest]},
            {"pattern": "quay.io/none:1", "since": "when?", "images": []},
        ]}))
        .unwrap();
        let clock = Clock { now: Timestamp::UNIX_EPOCH, zone: TimeZone::UTC };
        let columns = Columns { wide: false, namespaces: false, headings: true };
        let text = "\
PATTERN            AGE         IMAGES
quay.io/models/*   0s          1
quay.io/none:1     <unknown>   0
";
        assert_eq!(listing(&list, columns, &clock).table(columns), text);
        let wide = Columns { wide: true, headings: false, ..columns };
        let text = format!("quay.io/models/*   0s          {digest}\nquay.io/none:1     <unknown>   <none>\n");
        assert_eq!(listing(&list, wide, &clock).table(wide), text);
    }
}
