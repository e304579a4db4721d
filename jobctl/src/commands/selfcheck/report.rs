//! The table, the document and the exit status of a check.

use serde_json::{Value, json};

use super::canary::{Row, Verdict};
use crate::cli::Format;
use crate::exit;
use crate::failure::Result;
use crate::print::json;
use crate::print::table::Table;

pub(crate) fn shown(rows: &[Row], directory: &str, format: Option<Format>) -> Result<String> {
    match format.unwrap_or(Format::Table) {
        format @ (Format::Json | Format::Yaml) => json::text(&document(rows, directory), format),
        Format::Name => Ok(bad(rows).map(|row| format!("{}\n", row.check)).collect()),
        Format::Table | Format::Wide => Ok(table(rows, directory)),
    }
}

/// 0 only if all that was asked is enforced.
pub(crate) fn status(rows: &[Row]) -> i32 {
    if bad(rows).next().is_none() { exit::OK } else { exit::REFUSED }
}

pub(crate) fn summary(rows: &[Row]) -> String {
    let bad: Vec<_> = bad(rows).map(|row| row.check).collect();
    let others = if bad.is_empty() { String::new() } else { format!("; not: {}", bad.join(", ")) };
    format!("{} of {} enforced{others}", rows.len() - bad.len(), rows.len())
}

fn bad(rows: &[Row]) -> impl Iterator<Item = &Row> {
    rows.iter().filter(|row| row.finding.verdict != Verdict::Enforced)
}

fn asked(row: &Row, directory: &str) -> String {
    row.asked.replace("DIR", directory)
}

/// Never cut: the reasons are what it is for.
fn table(rows: &[Row], directory: &str) -> String {
    let mut table = Table::new(&["CHECK", "ASKED", "MEASURED", "VERDICT"]);
    for row in rows {
        let measured = match row.finding.measured.as_str() {
            "" => "-",
            measured => measured,
        };
        let verdict = in_words(&row.finding.verdict, row.look);
        table.row(vec![row.check.to_owned(), asked(row, directory), measured.to_owned(), verdict]);
    }
    table.shown(None)
}

fn in_words(verdict: &Verdict, look: usize) -> String {
    match verdict {
        Verdict::Enforced if look > 1 => format!("enforced, seen at look {look}"),
        Verdict::Enforced => "enforced".to_owned(),
        Verdict::NotEnforced => "NOT ENFORCED".to_owned(),
        Verdict::Refused(reason) => format!("refused: {reason}"),
        Verdict::Unchecked(reason) => format!("could not be checked: {reason}"),
    }
}

fn document(rows: &[Row], directory: &str) -> Value {
    let check = |row: &Row| {
        let (verdict, reason) = match &row.finding.verdict {
            Verdict::Enforced => ("enforced", ""),
            Verdict::NotEnforced => ("not_enforced", ""),
            Verdict::Refused(reason) => ("refused", reason.as_str()),
            Verdict::Unchecked(reason) => ("unchecked", reason.as_str()),
        };
        json!({
            "check": row.check,
            "asked": asked(row, directory),
            "measured": row.finding.measured,
            "verdict": verdict,
            "reason": reason,
            "looks": row.look,
        })
    };
    let checks: Vec<Value> = rows.iter().map(check).collect();
    json!({ "enforced": bad(rows).next().is_none(), "checks": checks })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::selfcheck::canary::Finding;

    fn row(check: &'static str, verdict: Verdict) -> Row {
        let finding = Finding { measured: "5.1 MB/s".into(), verdict };
        Row { check, asked: "5 MB/s to DIR", finding, look: 1 }
    }

    fn rows() -> Vec<Row> {
        let refused = Verdict::Refused("no controller\x1b[2J memory".into());
        vec![row("io", Verdict::Enforced), row("memory", refused)]
    }

    #[test]
    fn what_is_refused_is_not_enforced_here() {
        assert_eq!(status(&rows()), 1);
        assert_eq!(status(&rows()[..1]), 0);
        assert_eq!(summary(&rows()), "1 of 2 enforced; not: memory");
        assert_eq!(summary(&rows()[..1]), "1 of 1 enforced");
    }

    #[test]
    fn a_table_has_the_reason_in_full_and_the_directory() {
        let text = shown(&rows(), "/srv", None).expect("prints");
        assert!(text.contains("5 MB/s to /srv  5.1 MB/s  enforced\n"), "{text}");
        assert!(text.contains("refused: no controller\\x1b[2J memory\n"), "{text}");
    }

    #[test]
    fn what_was_not_seen_at_once_is_told() {
        let late = Row { look: 2, ..row("io", Verdict::Enforced) };
        assert_eq!(status(std::slice::from_ref(&late)), 0);
        let text = shown(&[late], "/srv", None).expect("prints");
        assert!(text.ends_with("enforced, seen at look 2\n"), "{text}");
    }

    #[test]
    fn a_document_has_words_for_programs() {
        let text = shown(&rows(), "/srv", Some(Format::Json)).expect("prints");
        let value: Value = serde_json::from_str(&text).expect("is JSON");
        assert_eq!(value["enforced"], false);
        assert_eq!(value["checks"][0]["verdict"], "enforced");
        assert_eq!(value["checks"][0]["looks"], 1);
        assert_eq!(value["checks"][1]["verdict"], "refused");
        assert_eq!(value["checks"][1]["asked"], "5 MB/s to /srv");
        assert_eq!(shown(&rows(), "/", Some(Format::Name)).expect("prints"), "memory\n");
    }
}
