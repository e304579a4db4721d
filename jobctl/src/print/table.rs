//! Columns as kubectl prints them: no lines, two spaces between.

use unicode_width::UnicodeWidthStr as _;

use crate::format::escape::escape;

/// The SGR parameters (ECMA-48) for a cell's text.
type Colour = fn(&str) -> &'static str;

/// Cells are escaped; colours may be wrapped around them, see [`Table::shown`].
pub(crate) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    paint: Option<(usize, Colour)>,
}

impl Table {
    pub(crate) fn new(head: &[&'static str]) -> Self {
        Table { head: head.to_vec(), rows: Vec::new(), paint: None }
    }

    /// Colours the cells of the column of that name, each in its own way.
    pub(crate) fn paint(&mut self, column: &str, colour: Colour) {
        let column = self.head.iter().position(|head| *head == column);
        self.paint = column.map(|column| (column, colour));
    }

    /// As many cells as the head has.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|cell| escape(cell).into_owned()).collect());
    }

    /// The whole table; with `width`, the last column is cut so that lines fit into it, but never
    /// shorter than 20 columns.
    pub(crate) fn shown(&self, width: Option<usize>) -> String {
        let columns = self.head.len();
        let mut widths: Vec<usize> = self.head.iter().map(|head| head.width()).collect();
        for row in &self.rows {
            for (widest, cell) in widths.iter_mut().zip(row) {
                *widest = (*widest).max(cell.width());
            }
        }
        let before: usize = widths[..columns - 1].iter().map(|w| w + 2).sum();
        let last = width.map(|width| width.saturating_sub(before).max(20));
        let mut out = String::new();
        self.line(&mut out, &widths, None, self.head.iter().copied(), false);
        for row in &self.rows {
            self.line(&mut out, &widths, last, row.iter().map(String::as_str), true);
        }
        out
    }

    fn line<'a>(
        &self,
        out: &mut String,
        widths: &[usize],
        last: Option<usize>,
        cells: impl Iterator<Item = &'a str>,
        painted: bool,
    ) {
        for (column, cell) in cells.enumerate() {
            let is_last = column + 1 == widths.len();
            match self.paint {
                Some((wanted, colour)) if painted && wanted == column => {
                    out.push_str(&format!("\x1b[{}m{cell}\x1b[0m", colour(cell)));
                }
                _ if is_last => out.push_str(&cut(cell, last)),
                _ => out.push_str(cell),
            }
            if !is_last {
                out.extend(std::iter::repeat_n(' ', widths[column] - cell.width() + 2));
            }
        }
        out.truncate(out.trim_end_matches(' ').len());
        out.push('\n');
    }
}

/// The beginning of `text` that fits into `width` columns, with `...` if anything is left out.
fn cut(text: &str, width: Option<usize>) -> String {
    let Some(width) = width.filter(|width| text.width() > *width) else { return text.to_owned() };
    let mut out = String::new();
    for c in text.chars() {
        if out.width() + unicode_width::UnicodeWidthChar::width(c).unwrap_or(0) + 3 > width {
            break;
        }
        out.push(c);
    }
    out + "..."
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["ID", "NAME", "COMMAND"]);
        table.row(vec!["1".into(), "\u{4e2d}\u{6587}".into(), "sleep 60".into()]);
        table.row(vec!["22".into(), "-".into(), "a command that is quite long\n".into()]);
        table
    }

    #[test]
    fn columns_line_up_also_under_wide_characters() {
        let expected = "ID  NAME  COMMAND\n1   \u{4e2d}\u{6587}  sleep 60\n\
                        22  -     a command that is quite long\\n\n";
        assert_eq!(table().shown(None), expected);
    }

    #[test]
    fn the_last_column_is_cut_to_the_terminal() {
        assert!(table().shown(Some(34)).ends_with("22  -     a command that is qui...\n"));
        assert!(table().shown(Some(5)).ends_with("22  -     a command that is...\n"));
    }

    #[test]
    fn colours_take_no_room() {
        let mut table = table();
        table.paint("NAME", |_| "32");
        let shown = table.shown(None);
        assert!(shown.contains("22  \x1b[32m-\x1b[0m     a command"), "{shown:?}");
        assert!(shown.starts_with("ID  NAME  COMMAND\n"));
    }
}
