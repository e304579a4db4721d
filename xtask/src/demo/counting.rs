//! The scene in which the broker is killed and nobody who listens to a job notices.

use std::path::Path;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::stage::{Line, Stage, Stream, spawn};
use super::user::{USER, json};
use crate::programs::Programs;
use crate::site::{Ending, Site};

/// A line every 100 ms.
const LINES: usize = 60;
const SCRIPT: &str = "i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo $i; sleep 0.1; done";

/// After this many lines the broker is killed.
const KILL_AFTER: usize = 20;

/// So long there is no broker: several lines' time.
const TAKEOVER_MAX: Duration = Duration::from_secs(1);

pub(crate) fn play(stage: &mut Stage, site: &Site, programs: &Programs) -> Result<()> {
    stage
        .heading("The broker is killed while a job runs: the client reconnects and misses nothing");
    let run = ["run", "--name", "count", "--", "sh", "-c", SCRIPT];
    stage.typed(&run);
    let (run, output) = spawn(site, &run)?;
    let mut numbers = Numbers::default();
    numbers.show_until(stage, &output, 5);
    stage.piece("\n");
    stage.say("In a second terminal (its output is compared below):");
    let logs = ["logs", "-f", "count"];
    stage.typed(&logs);
    let (logs, logged) = spawn(site, &logs)?;
    let job = json(site, &["inspect", "count", "-o", "json"])?;
    let pid = job["pid"].as_u64().context("jobctl inspect: no pid")?;
    numbers.show_until(stage, &output, KILL_AFTER);
    kill_and_start(stage, site, programs, pid)?;
    numbers.show_until(stage, &output, usize::MAX);
    stage.piece("\n");
    let status = run.wait()?;
    let mut followed = Numbers::default();
    followed.take(logged);
    logs.wait()?;
    stage.holds("jobctl run has exited 0, as the job did", status.success());
    check_outcome(stage, "jobctl run", &numbers.seen);
    check_outcome(stage, "jobctl logs -f", &followed.seen);
    let job = json(site, &["ps", "-o", "json"])?;
    let nap = job.to_string().contains("\"nap\"");
    stage.holds("the job that ran in the background is still there, too", nap);
    Ok(())
}

fn kill_and_start(stage: &mut Stage, site: &Site, programs: &Programs, job: u64) -> Result<()> {
    let broker = site.broker_pid().context("the broker has ended by itself")?;
    stage.piece("\n");
    stage.say(&format!("# kill -9 {broker}"));
    site.end(Ending::Killed)?;
    thread::sleep(TAKEOVER_MAX); // the audience looks at a host without a broker
    let lives = Path::new("/proc").join(job.to_string()).exists();
    stage.holds(&format!("no broker for {TAKEOVER_MAX:?}, and the job (pid {job}) lives"), lives);
    stage.say("# job-broker --config ... &");
    site.start(programs)?;
    let pid = site.broker_pid().unwrap_or_default();
    stage.say(&format!("The new broker (pid {pid}) has taken over; {USER} sees:"));
    Ok(())
}

fn check_outcome(stage: &mut Stage, who: &str, seen: &[usize]) {
    let missing = (1..=LINES).filter(|n| !seen.contains(n)).count();
    let doubled = seen.iter().enumerate().filter(|(at, n)| seen[..*at].contains(n)).count();
    let in_order = seen.is_sorted();
    let word = |count: usize| if count == 0 { "none".to_owned() } else { count.to_string() };
    let order = if in_order { "" } else { ", out of order" };
    let claim = format!(
        "{who}: {} lines, {} missing, {} doubled{order}",
        seen.len(),
        word(missing),
        word(doubled)
    );
    stage.holds(&claim, seen.len() == LINES && missing == 0 && doubled == 0 && in_order);
}

/// The numbers that have arrived.
#[derive(Default)]
struct Numbers {
    seen: Vec<usize>,
    in_row: usize,
}

impl Numbers {
    /// Shows lines as they come, until so many numbers are there or the output has ended.
    fn show_until(&mut self, stage: &Stage, output: &Receiver<Line>, count: usize) {
        self.in_row = 0;
        while self.seen.len() < count
            && let Ok(line) = output.recv()
        {
            if line.stream == Stream::Err {
                stage.piece(if self.in_row == 0 { "" } else { "\n" });
                self.in_row = 0;
                stage.line(line.stream, &line.text);
                continue;
            }
            stage.piece(match self.in_row {
                0 => "      |",
                row if row % 20 == 0 => "\n      |",
                _ => "",
            });
            self.in_row += 1;
            stage.piece(&format!(" {}", line.text));
            self.push(&line);
        }
    }

    fn take(&mut self, output: Receiver<Line>) {
        output.iter().filter(|line| line.stream == Stream::Out).for_each(|line| self.push(&line));
    }

    /// What is no number counts as one that nobody wrote.
    fn push(&mut self, line: &Line) {
        self.seen.push(line.text.parse().unwrap_or(usize::MAX));
    }
}
