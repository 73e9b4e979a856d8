//! Columns of text, aligned as Go's `text/tabwriter` aligns them, because kubectl's layouts are what that package makes of them.

/// How cells are padded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    min_width: usize,
    padding: usize,
}

/// `kubectl describe` (kubectl, pkg/describe/describe.go, `tabbedString`).
pub(crate) const DESCRIBE: Layout = Layout { min_width: 0, padding: 2 };
/// `kubectl get` (cli-runtime, pkg/printers/tabwriter.go).
pub(crate) const GET: Layout = Layout { min_width: 6, padding: 3 };

/// A table with a header.
#[derive(Debug)]
pub(crate) struct Table {
    text: String,
}

// === impl Table ===

impl Table {
    /// An empty table under these headings.
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self { text: headings.join("\t") + "\n" }
    }

    /// An empty table without headings.
    pub(crate) fn bare() -> Self {
        Self { text: String::new() }
    }

    /// Adds a line. Cells are foreign text: whatever is unsafe in them is escaped.
    pub(crate) fn row<S: AsRef<str>>(&mut self, cells: &[S]) {
        let cells: Vec<_> = cells.iter().map(|cell| crate::text::line(cell.as_ref())).collect();
        self.text.push_str(&cells.join("\t"));
        self.text.push('\n');
    }

    /// The table with its columns aligned as `kubectl get` aligns them.
    pub(crate) fn render(&self) -> String {
        align(&self.text, GET)
    }
}

/// Aligns text whose cells end with tabs. A column is a run of consecutive lines that have a cell there; the last cell of a
/// line, which no tab ends, belongs to no column. Widths are counted in characters, as Go counts runes.
pub(crate) fn align(text: &str, layout: Layout) -> String {
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|cells| Vec::with_capacity(cells.len())).collect();
    let columns = lines.iter().map(Vec::len).max().unwrap_or_default();
    for column in 0..columns {
        widen_column(&lines, &mut widths, column, layout);
    }
    lines.iter().zip(&widths).map(|(cells, widths)| padded(cells, widths) + "\n").collect()
}

/// Appends to each line's widths that of `column`, where the line has a tab-ended cell there.
fn widen_column(lines: &[Vec<&str>], widths: &mut [Vec<usize>], column: usize, layout: Layout) {
    let in_column = |cells: &&Vec<&str>| column + 1 < cells.len();
    let mut rest = lines.iter().zip(widths).peekable();
    while rest.peek().is_some() {
        let mut run = Vec::new();
        let mut width = layout.min_width;
        while let Some((cells, widths)) = rest.next_if(|(cells, _)| in_column(cells)) {
            let wanted = cells.get(column).map_or(0, |cell| cell.chars().count()) + layout.padding;
            width = width.max(wanted);
            run.push(widths);
        }
        for widths in run {
            widths.push(width);
        }
        // The line that ended the run.
        rest.next();
    }
}

fn padded(cells: &[&str], widths: &[usize]) -> String {
    let mut line = String::new();
    for (index, cell) in cells.iter().enumerate() {
        let width = widths.get(index).copied().unwrap_or_default();
        line.push_str(cell);
        line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn columns_line_up_whatever_is_in_them(rows in proptest::collection::vec(proptest::array::uniform3(".{0,8}"), 1..6)) {
            let mut table = Table::new(&["A", "B", "C"]);
            for row in &rows {
                table.row(row);
            }
            let text = table.render();
            let start = text.find('C').unwrap_or_default();
            prop_assert_eq!(text.lines().count(), rows.len() + 1);
            for (line, row) in text.lines().skip(1).zip(&rows) {
                let last: String = line.chars().skip(start).collect();
                prop_assert_eq!(last, crate::text::line(&row[2]));
            }
        }
    }

    #[test]
    fn tables_have_three_spaces_and_a_least_width() {
        let mut table = Table::new(&["A", "LONG HEADING", "LAST"]);
        table.row(&["x", "y", "z"]);
        assert_eq!(table.render(), "A     LONG HEADING   LAST\nx     y              z\n");
    }

    #[test]
    fn a_line_without_the_cell_ends_the_column() {
        let text = "Name:\tx\nVery long label:\ty\nVolumes:\n  a:\tb\n";
        let aligned = "Name:             x\nVery long label:  y\nVolumes:\n  a:  b\n";
        assert_eq!(align(text, DESCRIBE), aligned);
    }

    #[test]
    fn an_empty_cell_keeps_its_column() {
        assert_eq!(align("Labels:\ta\n\tbb\n", DESCRIBE), "Labels:  a\n         bb\n");
    }

    #[test]
    fn foreign_cells_cannot_move_columns() {
        let mut table = Table::new(&["A", "B"]);
        table.row(&["x\ty\nz", "w"]);
        assert_eq!(table.render(), "A         B\nx\\ty\\nz   w\n");
    }
}
