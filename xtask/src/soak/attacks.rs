//! `cargo xtask soak --attacks`: the attacks of `tests/tests/attacks` in their long form, and a table
//! of what each cost others.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::programs::{self, Profile, Programs};
use crate::{process, table, workspace};

/// Runs them one after the other, on the programs of the release build if there is one. A failed
/// attack does not keep the others from being made.
pub(super) fn run(only: Option<&str>, json: Option<&Path>) -> Result<ExitCode> {
    let programs = programs()?;
    let directory = tempfile::tempdir().context("no temporary directory")?;
    let report = directory.path().join("report");
    let mut command = workspace::cargo();
    command.args(["test", "-p", "job-tests", "--test", "attacks"]).args(only);
    command.args(["--", "--nocapture", "--test-threads=1"]);
    command.env("JOB_TESTS_ATTACKS", "long").env("JOB_TESTS_ATTACKS_REPORT", &report);
    let status = process::status(command.envs(programs.environment()))?;
    let rows = rows(&fs::read_to_string(&report).unwrap_or_default())?;
    print!("\n{}", shown(&rows));
    if let Some(path) = json {
        write(path, &rows)?;
    }
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn programs() -> Result<Programs> {
    let built = programs::build(Profile::Dev)?;
    let Some(released) = programs::already_released(&built)? else {
        eprintln!("xtask: no release build is there; these are the programs for development");
        return Ok(built);
    };
    eprintln!("xtask: {} as it was built last", released.broker.display());
    Ok(released)
}

fn rows(report: &str) -> Result<Vec<Value>> {
    report.lines().map(|line| serde_json::from_str(line).context("a bad report")).collect()
}

fn write(path: &Path, rows: &[Value]) -> Result<()> {
    let text = serde_json::to_string_pretty(rows)? + "\n";
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn shown(rows: &[Value]) -> String {
    let heads = [
        "attack",
        "p99 before",
        "during",
        "after",
        "failed calls",
        "broker before",
        "at its peak",
        "budget",
        "verdict",
    ];
    let heads = std::iter::once(heads.map(str::to_owned));
    table::markdown(&heads.chain(rows.iter().map(cells)).collect::<Vec<_>>())
}

fn cells(row: &Value) -> [String; 9] {
    let text = |key: &str| row[key].as_str().unwrap_or("?").to_owned();
    let with = |key: &str, unit: &str| format!("{} {unit}", row[key]);
    let faults: Vec<_> = row["faults"].as_array().into_iter().flatten().collect();
    let faults: Vec<_> = faults.into_iter().filter_map(Value::as_str).collect();
    [
        text("attack"),
        with("p99_before_ms", "ms"),
        with("p99_during_ms", "ms"),
        with("p99_after_ms", "ms"),
        row["failures"].to_string(),
        with("rss_before_mib", "MiB"),
        with("rss_peak_mib", "MiB"),
        with("rss_budget_mib", "MiB"),
        if faults.is_empty() { "held".to_owned() } else { faults.join("; ") },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_the_report_is_one_of_the_table() {
        let report = r#"{"attack":"a","p99_before_ms":1.5,"p99_during_ms":20.0,"p99_after_ms":2.0,
            "failures":0,"rss_before_mib":14,"rss_peak_mib":20,"rss_budget_mib":128,"faults":["slow"]}"#
            .replace('\n', " ");
        let shown = shown(&rows(&report).expect("it is one"));
        let row = shown.lines().last().expect("a row");
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let expected =
            ["a", "1.5 ms", "20.0 ms", "2.0 ms", "0", "14 MiB", "20 MiB", "128 MiB", "slow"];
        assert_eq!(cells[1..10], expected);
    }
}
