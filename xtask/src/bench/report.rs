//! Results: one row each, as a Markdown table and as JSON. It must not measure anything.

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

/// The JSON list of `--json`.
pub(crate) fn json(rows: &[Row]) -> Result<String> {
    Ok(serde_json::to_string_pretty(rows)? + "\n")
}

/// A Markdown table whose columns are also aligned as plain text.
pub(crate) fn table(rows: &[Row]) -> String {
    let heads = ["what", "value", "reference", "ratio", "target", "met"].map(str::to_owned);
    let cells: Vec<_> = std::iter::once(heads).chain(rows.iter().map(cells)).collect();
    table::markdown(&cells)
}

fn cells(row: &Row) -> [String; 6] {
    let reference = match (&row.reference, row.reference_value) {
        (Some(name), Some(value)) => format!("{name}: {} {}", figure(value), row.unit),
        _ => String::new(),
    };
    [
        row.name.clone(),
        format!("{} {}", figure(row.value), row.unit),
        reference,
        row.ratio.map(figure).unwrap_or_default(),
        row.target.clone().unwrap_or_default(),
        row.met.map_or("", |met| if met { "yes" } else { "NO" }).to_owned(),
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
            serde_json::from_str(&json(&[row]).expect("JSON")).expect("JSON");
        let expected = serde_json::json!([{
            "name": "run", "value": 3.0, "unit": "ms", "reference": "ssh", "reference_value": 6.0,
            "ratio": 0.5, "target": "at most 5 ms", "met": true
        }]);
        assert_eq!(value, expected);
    }

    #[test]
    fn numbers_have_about_three_figures() {
        for (value, text) in [(0.0, "0"), (1234.5, "1234"), (12.34, "12.3"), (0.0123, "0.0123")] {
            assert_eq!(figure(value), text);
        }
    }
}
