//! The gap that followers see when the broker is killed, or ended, and restarted at once. Each job writes the time
//! every 20 ms to a jobctl of its own, and no follower may lose or repeat a line.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use job_api::v1::GetJobRequest;

use super::quantile::median;
use super::report::Row;
use super::setup::Bench;
use super::writer::now;
use super::{api, idle};
use crate::interrupt::{self, Running};
use crate::site::{Ending, IDENTITIES, Site};

const JOBS: usize = 20;
const MILLISECONDS: u64 = 20;
/// The interval of restarts: jobctl counts connection losses in quick succession as one, and backs off.
const SPAN: Duration = Duration::from_secs(6);
/// The bytes of a line: nanoseconds since 1970, until the year 2286.
const LINE: usize = 20;

/// When the job wrote each line and when the line arrived, both by the host's clock.
type Lines = Arc<Mutex<Vec<(Duration, Duration)>>>;

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let rounds = bench.rounds(3, 10);
    let broker = bench.broker()?;
    let site = &broker.site;
    let jobs = start(bench, site)?;
    let followers = jobs.iter().map(|id| Follower::new(site, id)).collect::<Result<Vec<_>>>()?;
    thread::sleep(SPAN);
    let mut rows = Vec::new();
    for (how, name) in [(Ending::Killed, "SIGKILL"), (Ending::Asked, "SIGTERM")] {
        let (mut heard, mut written) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let from = now();
            site.end(how)?;
            site.start_unasked(&bench.programs)?;
            thread::sleep(SPAN.saturating_sub(now().saturating_sub(from)));
            let silences = followers.iter().map(|follower| follower.silences(from, now()));
            let (ours, theirs): (Vec<f64>, Vec<f64>) = silences.unzip();
            heard.push(ours.into_iter().fold(0.0, f64::max));
            written.push(theirs.into_iter().fold(0.0, f64::max));
            interrupt::check()?;
        }
        let longest = heard.iter().copied().fold(0.0, f64::max);
        let own = written.iter().copied().fold(0.0, f64::max);
        rows.push(
            Row::new(
                format!(
                    "{JOBS} followers, {rounds} times {name} and a new broker: longest silence"
                ),
                longest,
                "s",
            )
            .beside("the jobs' own longest pause", own)
            .at_most(1.0),
        );
        rows.push(
            Row::new("the same, the longest of each restart, median", median(&heard), "s")
                .beside("the jobs' own", median(&written)),
        );
    }
    idle::end_all(site)?;
    let mut lines = 0;
    for (follower, id) in followers.into_iter().zip(&jobs) {
        lines += follower.finish(site, id)?;
    }
    eprintln!("xtask: {lines} lines of {JOBS} jobs, none missing and none twice");
    broker.close()?;
    Ok(rows)
}

fn start(bench: &Bench, site: &Site) -> Result<Vec<String>> {
    let writer = bench.writer();
    // Lines for an hour: the jobs are killed earlier.
    let (count, pause) = (3_600_000 / MILLISECONDS, MILLISECONDS.to_string());
    let words = [writer.as_str(), "bench-writer", "lines", &count.to_string(), &pause];
    api::runtime()?.block_on(async {
        let mut client = api::client(site).await?;
        let mut ids = Vec::new();
        for _ in 0..JOBS {
            ids.push(api::start(&mut client, &words).await?.id);
        }
        Ok(ids)
    })
}

/// A jobctl, which reconnects by itself.
struct Follower {
    jobctl: Running,
    reading: thread::JoinHandle<Result<()>>,
    lines: Lines,
}

impl Follower {
    fn new(site: &Site, id: &str) -> Result<Follower> {
        let mut command = site.jobctl(IDENTITIES[0]);
        // Quiet: jobctl reports each reconnection.
        command.args(["-q", "logs", "-f", id]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut jobctl = Running::spawn(&mut command)?;
        let out = jobctl.child.stdout.take().context("no stdout")?;
        let lines = Lines::default();
        let kept = Arc::clone(&lines);
        let reading = thread::spawn(move || {
            for line in BufReader::new(out).lines() {
                let written = Duration::from_nanos(line?.parse().context("not a time")?);
                kept.lock().unwrap_or_else(PoisonError::into_inner).push((written, now()));
            }
            Ok(())
        });
        Ok(Follower { jobctl, reading, lines })
    }

    /// The longest gaps without a line, in seconds, between two times: as the follower saw them, and as the job
    /// wrote. A gap that has not ended counts up to `to`.
    fn silences(&self, from: Duration, to: Duration) -> (f64, f64) {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = lines.partition_point(|(_, came)| *came < from).saturating_sub(1);
        let longest = |times: &mut dyn Iterator<Item = Duration>| {
            let mut before = None;
            let gaps = times.filter_map(|time| Some(time.saturating_sub(before.replace(time)?)));
            gaps.max().unwrap_or_default().as_secs_f64()
        };
        let recent = &lines[begin..];
        let heard = longest(&mut recent.iter().map(|(_, came)| *came).chain([to]));
        let written = longest(&mut recent.iter().map(|(written, _)| *written));
        (heard, written)
    }

    /// Checks, after the job was killed, that the follower has every line exactly once. Returns the number of lines.
    fn finish(self, site: &Site, id: &str) -> Result<usize> {
        self.jobctl.wait()?;
        self.reading.join().ok().context("a follower's thread panicked")??;
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let job = api::runtime()?.block_on(async {
            let mut client = api::client(site).await?;
            let answer = client.get_job(GetJobRequest { id: id.to_owned() }).await?;
            answer.into_inner().job.context("GetJob: no job")
        })?;
        let written = usize::try_from(job.stdout_bytes)? / LINE;
        ensure!(lines.len() == written, "a follower got {} of {written} lines", lines.len());
        let in_order = lines.is_sorted_by(|(before, _), (after, _)| before < after);
        ensure!(in_order, "a follower got a line twice, or out of order");
        Ok(written)
    }
}
