//! `pin`, `unpin` and `get pins`.

use imagevol_api::daemon::{Pin, PinList};
use imagevol_api::metav1::Status;

use crate::cli::{Get, Pins};
use crate::error::{CommandError, Result};
use crate::output::{DataFormat, TableFormat};
use crate::session::{self, Failures, Session};
use crate::table::Table;
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
        if failures.sort(answer.map_err(CommandError::from)).is_some() {
            session::print(&format!("Unpinned {}\n", text::line(pattern)))?;
        }
    }
    failures.result()
}

/// `get pins`. Their patterns are no names.
pub(super) async fn get(session: &Session, arguments: &Get, names: &[String]) -> Result<()> {
    if !names.is_empty() {
        return Err(CommandError::Usage("pins have no names: `get pins` lists them all"));
    }
    let list: PinList = session.client.get("/pins").await?;
    match arguments.output {
        Some(TableFormat::Json) => session::print(&DataFormat::Json.render(&list)?),
        Some(TableFormat::Yaml) => session::print(&DataFormat::Yaml.render(&list)?),
        Some(TableFormat::Name) => {
            let names = list.items.iter().map(|pin| format!("pin/{}\n", text::line(&pin.pattern)));
            session::print(&names.collect::<Vec<_>>().concat())
        }
        Some(TableFormat::Wide) | None if list.items.is_empty() => session::note("No pins found."),
        format @ (Some(TableFormat::Wide) | None) => {
            session::print(&table(&list, !arguments.no_headers, format, &session.clock))
        }
    }
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

fn table(list: &PinList, headings: bool, format: Option<TableFormat>, clock: &Clock) -> String {
    let mut table = if headings { Table::new(&["PATTERN", "AGE", "IMAGES"]) } else { Table::bare() };
    for pin in &list.items {
        let age = pin.since.parse().map_or_else(|_| text::UNKNOWN.to_owned(), |since| clock.age(since));
        let images = if format == Some(TableFormat::Wide) {
            pin.images.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
        } else {
            pin.images.len().to_string()
        };
        table.row(&[pin.pattern.clone(), age, images]);
    }
    table.render()
}
