//! Results: one row each, as a Markdown table and as JSON; of several runs side by side. It must not measure anything.

use anyhow::Result;
use serde::Serialize;

use crate::table;

/// One result.
#[derive(Serialize)]
pub(crate) struct Row {
    name: String,
    value: f64,
    unit: &'static str,
    /// The name of the reference.
    reference: Option<String>,
    reference_value: Option<f64>,
    /// The value divided by the reference's value.
    ratio: Option<f64>,
    target: Option<String>,
    met: Option<bool>,
}

impl Row {
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Row {
            name: name.into(),
            value,
            unit,
            reference: None,
            reference_value: None,
            ratio: None,
            target: None,
            met: None,
        }
    }

    pub(crate) fn beside(mut self, reference: impl Into<String>, value: f64) -> Self {
        self.reference = Some(reference.into());
        self.reference_value = Some(value);
        self.ratio = Some(self.value / value);
        self
    }

    pub(crate) fn at_most(self, limit: f64) -> Self {
        let (met, target) = (self.value <= limit, format!("at most {limit} {}", self.unit));
        self.judged(target, met)
    }

    pub(crate) fn at_least(self, limit: f64) -> Self {
        let (met, target) = (self.value >= limit, format!("at least {limit} {}", self.unit));
        self.judged(target, met)
    }

    pub(crate) fn ratio_at_most(self, limit: f64) -> Self {
        let met = self.ratio.is_some_and(|ratio| ratio <= limit);
        self.judged(format!("ratio at most {limit}"), met)
    }

    pub(crate) fn ratio_at_least(self, limit: f64) -> Self {
        let met = self.ratio.is_some_and(|ratio| ratio >= limit);
        self.judged(format!("ratio at least {limit}"), met)
    }

    /// A row with several targets must meet all of them.
    fn judged(mut self, target: String, met: bool) -> Self {
        self.target = Some(match self.target.take() {
            Some(first) => format!("{first}, {target}"),
            None => target,
        });
        self.met = Some(self.met.unwrap_or(true) && met);
        self
    }
}

/// The JSON list of `--json`, one run after the other.
pub(crate) fn json(runs: &[Vec<Row>]) -> Result<String> {
    let rows: Vec<_> = runs.iter().flatten().collect();
    Ok(serde_json::to_string_pretty(&rows)? + "\n")
}

/// A Markdown table whose columns are also aligned as plain text: the rows of the first run, with the figures of all.
pub(crate) fn table(runs: &[Vec<Row>]) -> String {
    let heads = ["what", "value", "reference", "ratio", "target", "met"].map(str::to_owned);
    let rows = runs.first().into_iter().flatten().enumerate().map(|(n, first)| {
        // One that could not be measured each time has no place.
        let is_same = |row: &&Row| (&row.name, &row.reference) == (&first.name, &first.reference);
        let same: Vec<_> = runs.iter().filter_map(|run| run.get(n).filter(is_same)).collect();
        cells(first, &same)
    });
    table::markdown(&std::iter::once(heads).chain(rows).collect::<Vec<_>>())
}

fn cells(first: &Row, all: &[&Row]) -> [String; 6] {
    let figures = |of: fn(&Row) -> Option<f64>| {
        let figures: Vec<_> = all.iter().filter_map(|row| of(row)).map(figure).collect();
        figures.join(", ")
    };
    let reference = match &first.reference {
        Some(name) => format!("{name}: {} {}", figures(|row| row.reference_value), first.unit),
        None => String::new(),
    };
    let met = all.iter().filter(|row| row.met == Some(true)).count();
    let met = match (first.met, all.len()) {
        (None, _) => String::new(),
        (Some(met), 1) => (if met { "yes" } else { "NO" }).into(),
        (Some(_), runs) => format!("{met} of {runs}"),
    };
    [
        first.name.clone(),
        format!("{} {}", figures(|row| Some(row.value)), first.unit),
        reference,
        figures(|row| row.ratio),
        first.target.clone().unwrap_or_default(),
        met,
    ]
}

/// Three significant digits: the noise exceeds more.
fn figure(value: f64) -> String {
    let digits = match value.abs() {
        size if size == 0.0 || size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        size if size >= 0.1 => 3,
        _ => 4,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_meets_its_target_only_if_it_meets_all_of_them() {
        let row = || Row::new("run", 3.0, "ms").beside("ssh", 210.0);
        assert_eq!(row().met, None);
        assert_eq!(row().at_most(5.0).ratio_at_most(0.04).met, Some(true));
        assert_eq!(row().at_most(2.0).ratio_at_most(0.04).met, Some(false));
        assert_eq!(row().at_least(4.0).met, Some(false));
        assert_eq!(row().ratio_at_least(0.01).met, Some(true));
    }

    #[test]
    fn the_json_has_the_promised_keys() {
        let row = Row::new("run", 3.0, "ms").beside("ssh", 6.0).at_most(5.0);
        let value: serde_json::Value =
            serde_json::from_str(&json(&[vec![row]]).expect("JSON")).expect("JSON");
        let expected = serde_json::json!([{
            "name": "run", "value": 3.0, "unit": "ms", "reference": "ssh", "reference_value": 6.0,
            "ratio": 0.5, "target": "at most 5 ms", "met": true
        }]);
        assert_eq!(value, expected);
    }

    #[test]
    fn the_figures_of_several_runs_stand_side_by_side_and_count_how_often_the_target_is_met() {
        let run = |value: f64| vec![Row::new("run", value, "ms").beside("ssh", 10.0).at_most(5.0)];
        let text = table(&[run(3.0), run(6.0), run(4.0)]);
        let row = text.lines().last().expect("a row").split('|').map(str::trim);
        let expected = [
            "run",
            "3.00, 6.00, 4.00 ms",
            "ssh: 10.0, 10.0, 10.0 ms",
            "0.300, 0.600, 0.400",
            "at most 5 ms",
            "2 of 3",
        ];
        assert_eq!(row.filter(|cell| !cell.is_empty()).collect::<Vec<_>>(), expected);
        assert!(table(&[run(6.0)]).contains("| NO "), "{}", table(&[run(6.0)]));
    }

    #[test]
    fn numbers_have_about_three_figures() {
        for (value, text) in [(0.0, "0"), (1234.5, "1234"), (12.34, "12.3"), (0.0123, "0.0123")] {
            assert_eq!(figure(value), text);
        }
    }
}
