//! `cargo xtask bench`: speed and size, side by side with today's tools. It must fail only if a measurement is
//! impossible: a missed target is a result.
//!
//! One measurement per file. Each interleaves its rounds with those of its references, on a broker of its own, and
//! returns medians. `report` is the table and the JSON; `setup`, `disk`, `ssh`, `api`, `usage` and `quantile` are shared;
//! `writer` is the workload.

mod api;
mod authority;
mod disk;
mod followers;
mod idle;
mod isolated;
mod isolation;
mod keeper;
pub(crate) mod limits;
mod line;
mod live;
mod quantile;
mod rate;
mod relay;
mod report;
mod restart;
mod run_true;
mod running;
mod scale;
mod setup;
mod ssh;
mod start;
mod stats;
mod stored;
mod usage;
mod wan;
pub(crate) mod writer;
mod writers;

use std::fs;
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::programs::{self, Profile};
use crate::{interrupt, packages};
use disk::State;
use report::Row;
use setup::Bench;

/// The arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write the results there, too: a list of {name, value, unit, reference, reference_value,
    /// ratio, target, met}
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Fewer rounds and less data: four minutes for all
    #[arg(long)]
    quick: bool,
    /// For `scale`: this many running jobs and three times kill -9, in place of 1,000 running and
    /// 100,000 finished ones. Each is two processes and a descriptor of the broker
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// For `scale`: this many finished jobs, each 10 kB on disk, in place of 100,000
    #[arg(long, value_name = "N", conflicts_with = "jobs")]
    finished: Option<usize>,
    /// Keep the state of the brokers in this directory, in place of a new ext4 for each run
    #[arg(long, value_name = "D")]
    dir: Option<PathBuf>,
    /// Measure all of it so often, and print the figures of each run side by side
    #[arg(long, value_name = "N", default_value = "1")]
    runs: NonZero<usize>,
    /// Measure programs as they are built for development, for work on a measurement itself
    #[arg(long)]
    dev: bool,
    /// Only measurements whose name contains one of these
    filter: Vec<String>,
}

type Measurement = (&'static str, fn(&Bench) -> Result<Vec<Row>>);

const MEASUREMENTS: [Measurement; 17] = [
    ("run", run_true::measure),
    ("start", start::measure),
    ("limits", limits::measure),
    ("authority", authority::measure),
    ("isolation", isolation::measure),
    ("isolated", isolated::measure),
    ("rate", rate::measure),
    ("stored", stored::measure),
    ("live", live::measure),
    ("line", line::measure),
    ("idle", idle::measure),
    ("usage", stats::measure),
    ("followers", followers::measure),
    ("restart", restart::measure),
    ("scale", scale::measure),
    ("wan", wan::measure),
    ("writers", writers::measure),
];

/// Succeeds if every measurement succeeded, whether or not the targets are met.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if !nix::unistd::geteuid().is_root() {
        bail!("bench must run as root: it reads the memory of the broker and of the shims");
    }
    let needed = [("/usr/sbin/sshd", "openssh-server"), ("ssh", "openssh-client")];
    packages::ensure(&needed, "to compare with")?;
    let profile = if args.dev { Profile::Dev } else { Profile::Release };
    let programs = programs::build(profile)?;
    interrupt::watch()?;
    let mut runs = Vec::new();
    for _ in 0..args.runs.get() {
        let numbers = (args.jobs, args.finished);
        let state = State::new(args.dir.as_deref())?;
        let bench = Bench::new(profile, programs.clone(), state, args.quick, numbers)?;
        runs.push(measure(&bench, &args.filter)?);
    }
    print!("{}", report::table(&runs));
    if let Some(path) = &args.json {
        fs::write(path, report::json(&runs)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(bench: &Bench, filter: &[String]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, measure) in MEASUREMENTS {
        if !filter.is_empty() && !filter.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        eprintln!("xtask: measuring: {name}");
        rows.extend(measure(bench).with_context(|| format!("measuring: {name}"))?);
    }
    Ok(rows)
}
