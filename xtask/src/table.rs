//! Markdown tables, with columns that line up when they are read as they are.

use std::fmt::Write as _;

/// A table of these rows, the first of which is its head.
pub(crate) fn markdown<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let mut text = String::new();
    for (at, row) in rows.iter().enumerate() {
        for (cell, width) in row.iter().zip(widths) {
            // Infallible: a String grows.
            let _ = write!(text, "| {cell:width$} ");
        }
        text.push_str("|\n");
        if at == 0 {
            text.push_str(&widths.map(|width| format!("|{}", "-".repeat(width + 2))).concat());
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["a", "long"], ["longer", "b"]].map(|row| row.map(str::to_owned));
        assert_eq!(markdown(&rows), "| a      | long |\n|--------|------|\n| longer | b    |\n");
    }
}
