//! `get references`: every row that keeps an image.

use imagevol_api::daemon::ReferenceList;

use super::prefetch::until;
use crate::cli::Get;
use crate::error::{CommandError, Result};
use crate::output::{DataFormat, TableFormat};
use crate::session::{self, Session};
use crate::table::Table;
use crate::text::{self, Clock};

/// `get references`.
pub(super) async fn get(session: &Session, arguments: &Get, names: &[String]) -> Result<()> {
    if !names.is_empty() {
        return Err(CommandError::Usage(
            "`get references` lists them all; `imagevol why IMAGE` tells those of an image",
        ));
    }
    let list: ReferenceList = session.client.get("/references").await?;
    match arguments.output {
        Some(TableFormat::Json) => session::print(&DataFormat::Json.render(&list)?),
        Some(TableFormat::Yaml) => session::print(&DataFormat::Yaml.render(&list)?),
        Some(TableFormat::Name) => {
            let names = list.items.iter().map(|row| format!("reference/{}\n", text::line(&row.holder)));
            session::print(&names.collect::<Vec<_>>().concat())
        }
        Some(TableFormat::Wide) | None if list.items.is_empty() => session::note("No references found."),
        format @ (Some(TableFormat::Wide) | None) => {
            session::print(&table(&list, !arguments.no_headers, format, &session.clock))
        }
    }
}

fn table(list: &ReferenceList, headings: bool, format: Option<TableFormat>, clock: &Clock) -> String {
    let names = ["HOLDER", "REFERENCE", "IMAGE", "AGE", "EXPIRES"];
    let mut table = if headings { Table::new(&names) } else { Table::bare() };
    for row in &list.items {
        let image = row.image.as_ref().map_or_else(
            || "<none>".to_owned(),
            |image| if format == Some(TableFormat::Wide) { image.to_string() } else { image.short().to_owned() },
        );
        let age = row.since.parse().map_or_else(|_| text::UNKNOWN.to_owned(), |since| clock.age(since));
        table.row(&[row.holder.clone(), row.reference.clone(), image, age, until(row.expires.as_deref(), clock)]);
    }
    table.render()
}
