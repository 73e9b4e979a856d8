//! A list of the daemon's in the form that the user asked for.

use serde::Serialize;

use super::get::Columns;
use crate::error::Result;
use crate::output::{DataFormat, TableFormat};
use crate::session;
use crate::table::Table;
use crate::text;

/// What kubectl and docker show for nothing.
pub(super) const NONE: &str = "<none>";

/// A list in all its forms.
#[derive(Debug)]
pub(super) struct Listing<'l, L> {
    /// As JSON and YAML show it.
    pub list: &'l L,
    /// Its items as `-o name` shows them, `TYPE/NAME` each.
    pub names: Vec<String>,
    /// The headings of the table.
    pub headings: Vec<&'static str>,
    /// The lines of the table.
    pub rows: Vec<Vec<String>>,
    /// What is said where the table has no lines.
    pub empty: &'static str,
}

// === impl Listing ===

impl<L: Serialize> Listing<'_, L> {
    /// Prints it. An empty table is a note, and nothing on standard output.
    pub(super) fn show(&self, format: Option<TableFormat>, columns: Columns) -> Result<()> {
        match format {
            Some(TableFormat::Json) => session::print(&DataFormat::Json.render(self.list)?),
            Some(TableFormat::Yaml) => session::print(&DataFormat::Yaml.render(self.list)?),
            Some(TableFormat::Name) => session::print(&self.named()),
            Some(TableFormat::Wide) | None if self.rows.is_empty() => session::note(self.empty),
            Some(TableFormat::Wide) | None => session::print(&self.table(columns)),
        }
    }

    /// The names, one a line.
    pub(super) fn named(&self) -> String {
        self.names.iter().map(|name| format!("{}\n", text::line(name))).collect::<Vec<_>>().concat()
    }

    /// The table.
    pub(super) fn table(&self, columns: Columns) -> String {
        let mut table = if columns.headings { Table::new(&self.headings) } else { Table::bare() };
        for row in &self.rows {
            table.row(row);
        }
        table.render()
    }
}

/// The text, or what stands for nothing.
pub(super) fn or_none(text: &str) -> String {
    if text.is_empty() { NONE.to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_a_table_or_names() {
        let columns = Columns { wide: false, namespaces: false, headings: true };
        let listing = Listing {
            list: &(),
            names: vec!["pin/a\u{1b}".to_owned()],
            headings: vec!["PATTERN", "AGE"],
            rows: vec![vec!["a\u{1b}".to_owned(), "5s".to_owned()]],
            empty: "No pins found.",
        };
        assert_eq!(listing.named(), "pin/a\\u{1b}\n");
        assert_eq!(listing.table(columns), "PATTERN   AGE\na\\u{1b}   5s\n");
        assert_eq!(listing.table(Columns { headings: false, ..columns }), "a\\u{1b}   5s\n");
    }
}
