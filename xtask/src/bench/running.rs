//! Many running jobs, and kill -9 of the broker three times: when the next broker is ready, when it has reached all
//! shims, and the latency of calls meanwhile. It must not end a job between the kills.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::quantile::{median, quantile};
use super::report::Row;
use super::run_true::milliseconds;
use super::setup::Bench;
use super::{idle, usage};
use crate::interrupt;
use crate::site::{Ending, IDENTITIES, Site};

const KILLS: usize = 3;
/// The log line of a broker that has reached all adopted shims.
const REACHED: &str = "shims of jobs that were taken over have been reached";
/// The timeout of that line.
const TIMEOUT: Duration = Duration::from_secs(120);

pub(crate) fn measure(bench: &Bench, count: usize) -> Result<Vec<Row>> {
    let broker = bench.broker()?;
    let site = &broker.site;
    let quiet = calls(site, bench.rounds(20, 100))?;
    let begin = Instant::now();
    idle::start(site, count)?;
    let starting = begin.elapsed().as_secs_f64();
    eprintln!("xtask: {count} jobs run after {starting:.1} s");
    thread::sleep(Duration::from_secs(1));
    let descriptors = descriptors(site)?;
    let fresh = usage::rss(pid(site)?)?;
    let beside = calls(site, bench.rounds(20, 100))?;
    let mut all = Vec::new();
    for _ in 0..KILLS {
        all.push(kill(bench, site)?);
        eprintln!("xtask: {:?}", all.last());
        interrupt::check()?;
    }
    let begin = Instant::now();
    idle::end_all(site)?;
    let ending = begin.elapsed().as_secs_f64();
    broker.close()?;

    let most = |of: fn(&Restart) -> f64| all.iter().map(of).fold(0.0, f64::max);
    let meanwhile: Vec<f64> = all.iter().flat_map(|restart| restart.calls.clone()).collect();
    let bound = 10.0 * median(&quiet);
    Ok(vec![
        Row::new(format!("starting {count} jobs, 8 at a time"), count as f64 / starting, "/s"),
        Row::new("with them, descriptors of the broker", descriptors as f64, ""),
        Row::new("the same, RSS", fresh / 1e6, "MB").at_most(100.0),
        Row::new("the same, jobctl run -- true, p50", median(&beside), "ms")
            .beside("without jobs", median(&quiet)),
        Row::new("the same, p99", quantile(&beside, 0.99), "ms")
            .beside("without jobs", quantile(&quiet, 0.99)),
        Row::new(format!("ready after kill -9, the longest of {KILLS}"), most(|r| r.ready), "s")
            .at_most(2.0),
        Row::new("the same, all shims reached", most(|r| r.reached), "s").at_most(10.0),
        Row::new("from ready to reached, jobctl run -- true, p50", median(&meanwhile), "ms")
            .beside("without jobs", median(&quiet))
            .at_most(bound),
        Row::new("the same, p99", quantile(&meanwhile, 0.99), "ms")
            .beside("without jobs", quantile(&quiet, 0.99)),
        Row::new("after kill -9, RSS", most(|r| r.rss) / 1e6, "MB").at_most(100.0),
        Row::new("the same, descriptors", most(|r| r.descriptors as f64), ""),
        Row::new("the same, lines of log", most(|r| r.lines as f64), "").at_most(100.0),
        Row::new("killing them all, until nothing is left", ending, "s"),
    ])
}

/// The results of one kill -9: seconds, milliseconds of each call meanwhile, bytes.
#[derive(Debug)]
struct Restart {
    ready: f64,
    reached: f64,
    calls: Vec<f64>,
    rss: f64,
    descriptors: usize,
    lines: usize,
}

fn kill(bench: &Bench, site: &Site) -> Result<Restart> {
    let log = site.file("broker.log");
    site.end(Ending::Killed)?;
    let before = fs::read_to_string(&log)?.len();
    let begin = Instant::now();
    site.start_unasked(&bench.programs)?;
    let ready = begin.elapsed().as_secs_f64();
    let mut calls = Vec::new();
    let reached = loop {
        calls.push(milliseconds(&mut run(site))?);
        if said(&log, before)?.contains(REACHED) {
            break begin.elapsed().as_secs_f64();
        }
        ensure!(begin.elapsed() < TIMEOUT, "not all shims are reached after {TIMEOUT:?}");
        interrupt::check()?;
    };
    thread::sleep(Duration::from_secs(1)); // lets the broker become idle again
    // Each call logs its own start and end, which do not count.
    let said = said(&log, before)?;
    let lines = said.lines().filter(|line| !line.contains("start") && !line.contains("ended"));
    let (rss, descriptors) = (usage::rss(pid(site)?)?, descriptors(site)?);
    Ok(Restart { ready, reached, calls, rss, descriptors, lines: lines.count() })
}

fn calls(site: &Site, rounds: usize) -> Result<Vec<f64>> {
    let mut took = Vec::new();
    milliseconds(&mut run(site))?; // a broker's first call is slower
    for _ in 0..rounds {
        took.push(milliseconds(&mut run(site))?);
        interrupt::check()?;
    }
    Ok(took)
}

fn run(site: &Site) -> Command {
    let mut command = site.jobctl(IDENTITIES[1]);
    command.args(["run", "--", "true"]).stdin(Stdio::null());
    command
}

fn said(log: &Path, from: usize) -> Result<String> {
    let log = fs::read_to_string(log)?;
    Ok(log.get(from..).unwrap_or_default().to_owned())
}

fn descriptors(site: &Site) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{}/fd", pid(site)?))?.count())
}

fn pid(site: &Site) -> Result<u32> {
    site.broker_pid().context("the broker has ended")
}
