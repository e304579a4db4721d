//! Who did what: `audit`. Lines as the broker has them, or the few members of them that a table has room for.

use std::time::{Instant, SystemTime};

use job_api::v1::{AuditLine, ReadAuditRequest};
use serde_json::Value;
use unicode_width::UnicodeWidthStr as _;

use crate::cli;
use crate::cli::{Format, Global};
use crate::client::connection::Broker;
use crate::failure::{Failure, Result, call_cause, is_transient};
use crate::format::escape::escape;
use crate::format::time;
use crate::print::json;
use crate::print::sink::Sink;

/// The columns, each as wide as most of what stands in it: lines are printed as they come.
const COLUMNS: [(&str, usize); 7] = [
    ("TIME", 20),
    ("WHO", 12),
    ("VERB", 6),
    ("JOB", 36),
    ("OUTCOME", 7),
    ("RULE", 34),
    ("REASON", 0),
];

pub(crate) async fn audit(global: &Global, command: cli::Audit) -> Result<()> {
    let mut printer = Printer::new(global)?;
    let mut request = request(&command)?;
    let broker = Broker::connect(global, command.reconnect.reconnect_timeout).await?;
    let mut outage = None;
    loop {
        let (began, mut client) = (Instant::now(), broker.client.clone());
        let cut = match client.read_audit(request.clone()).await {
            Err(status) => status,
            Ok(stream) => {
                let mut stream = stream.into_inner();
                loop {
                    match stream.message().await {
                        Ok(Some(line)) => {
                            broker.mark_stable();
                            outage = None;
                            printer.print(&line).await?;
                            request.after = line.seq;
                        }
                        Ok(None) => return Ok(()),
                        Err(status) => break status,
                    }
                }
            }
        };
        if !is_transient(&cut) {
            return Err(broker.failure("cannot read the audit", &cut).await);
        }
        let on = format!(", going on after line {}", request.after);
        broker.come_back(&mut outage, began.elapsed(), &call_cause(&cut), &on).await?;
    }
}

fn request(command: &cli::Audit) -> Result<ReadAuditRequest> {
    let since = command.since.as_deref();
    let since = since
        .map(|text| time::parse_since(text, SystemTime::now()))
        .transpose()
        .map_err(|why| Failure::usage(format!("--since: {why}")))?;
    let word = |word: &Option<String>| word.clone().unwrap_or_default();
    Ok(ReadAuditRequest {
        owner: word(&command.owner),
        job: word(&command.job),
        verb: word(&command.verb),
        since,
        follow: command.follow,
        after: 0,
    })
}

struct Printer {
    out: Sink,
    is_json: bool,
    needs_head: bool,
}

impl Printer {
    fn new(global: &Global) -> Result<Printer> {
        let is_json = match global.output {
            None | Some(Format::Table | Format::Wide) => false,
            Some(Format::Json) => true,
            Some(Format::Yaml | Format::Name) => {
                return Err(Failure::usage("the audit is shown with -o table or -o json"));
            }
        };
        Ok(Printer { out: Sink::stdout()?, is_json, needs_head: !is_json && !global.quiet })
    }

    async fn print(&mut self, line: &AuditLine) -> Result<()> {
        let mut text = match (self.is_json, self.out.is_terminal) {
            (true, true) => json::harmless(&line.json),
            (true, false) => line.json.clone(), // its hash is in the next one
            (false, _) => row(&line.json),
        };
        text.push('\n');
        if std::mem::take(&mut self.needs_head) {
            let head = columns(COLUMNS.map(|(name, _)| name.to_owned()));
            text = format!("{head}\n{text}");
        }
        let written = self.out.write_all(text.as_bytes()).await;
        written.map_err(|error| Failure::of_stdout(&error))
    }
}

fn row(line: &str) -> String {
    let line: Value = serde_json::from_str(line).unwrap_or_default();
    let text = |path: &str| line.pointer(path).and_then(Value::as_str);
    let is_failure = text("/event/outcome") == Some("failure");
    let outcome = match text("/event/type/0") {
        Some("info") if is_failure => Some("failed"),
        Some("info") => Some("done"),
        Some("end") => Some("ended"),
        other => other,
    };
    let time = text("/@timestamp").map(|time| match time.parse() {
        Ok(time) => time::absolute(Some(&time)),
        Err(_) => time.to_owned(),
    });
    let reason = ["/event/reason", "/error/message", "/message"].into_iter().find_map(text);
    let cells = [
        time.as_deref(),
        text("/user/name"),
        text("/event/action"),
        text("/job/id"),
        outcome,
        text("/rule/name"),
        reason,
    ];
    columns(cells.map(|cell| escape(cell.unwrap_or("-")).into_owned()))
}

fn columns(cells: [String; COLUMNS.len()]) -> String {
    let mut line = String::new();
    for (cell, (_, width)) in cells.into_iter().zip(COLUMNS) {
        let missing = width.saturating_sub(cell.width()) + 2;
        line.push_str(&cell);
        line.extend(std::iter::repeat_n(' ', missing));
    }
    line.trim_end_matches(' ').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_who_did_what_by_which_rule_and_obeys_no_control_character() {
        let line = r#"{"@timestamp":"2026-01-31T08:00:00.25Z","event":{"action":"stop","type":["allowed"],
            "outcome":"unknown","reason":"ticket 7\u001b[2J"},"user":{"name":"root"},
            "job":{"id":"0198"},"rule":{"name":"admins of the configuration"}}"#;
        let row = row(line);
        let words: Vec<_> = row.split("  ").map(str::trim).filter(|w| !w.is_empty()).collect();
        let rule = "admins of the configuration";
        let time = "2026-01-31T08:00:00Z";
        assert_eq!(words, [time, "root", "stop", "0198", "allowed", rule, "ticket 7\\x1b[2J"]);
        assert_eq!(super::row("{}").split_whitespace().collect::<String>(), "-------");
    }
}
