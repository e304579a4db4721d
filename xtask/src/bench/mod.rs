//! `cargo xtask bench`: how fast and how small, side by side with what people use today.
//!
//! One measurement per file; each runs its rounds interleaved with those of its references, on a
//! broker of its own, and gives medians. `report` is the table and the JSON; `ssh`, `api` and `usage`
//! are what several measurements need; `writer` is the workload.

mod api;
mod followers;
mod idle;
pub(crate) mod limits;
mod line;
mod live;
mod rate;
mod report;
mod restart;
mod run_true;
mod running;
mod scale;
mod ssh;
mod start;
mod stats;
mod stored;
mod usage;
pub(crate) mod writer;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::programs::{self, Profile, Programs};
use crate::site::Throwaway;
use crate::{interrupt, packages};
use report::Row;
use ssh::Sshd;

/// The arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write the results there, too: a list of {name, value, unit, reference, reference_value,
    /// ratio, target, met}
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Fewer rounds and less data: a minute instead of several
    #[arg(long)]
    quick: bool,
    /// For `scale`: so many running jobs and three times kill -9, in place of 1,000 running and
    /// 100,000 finished ones. Each is two processes and a descriptor of the broker
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Measure programs as they are built for development, for work on a measurement itself
    #[arg(long)]
    dev: bool,
    /// Only measurements whose name contains one of these
    filter: Vec<String>,
}

/// What all measurements share.
struct Bench {
    programs: Programs,
    sshd: Sshd,
    /// 0755, unlike a site's: what is in it can be run and read by `nobody`.
    open_dir: TempDir,
    quick: bool,
    /// Running jobs, where other than the usual number is asked for.
    jobs: Option<usize>,
    profile: Profile,
}

impl Bench {
    /// One of two numbers of rounds.
    fn rounds(&self, quick: usize, full: usize) -> usize {
        if self.quick { quick } else { full }
    }

    /// A broker that has done nothing yet.
    fn broker(&self) -> Result<Throwaway> {
        interrupt::check()?;
        Throwaway::open(self.profile, &self.programs)
    }

    /// xtask's own program, where jobs may run it.
    fn writer(&self) -> String {
        self.open_dir.path().join("xtask").display().to_string()
    }
}

type Measurement = (&'static str, fn(&Bench) -> Result<Vec<Row>>);

const MEASUREMENTS: [Measurement; 12] = [
    ("run", run_true::measure),
    ("start", start::measure),
    ("limits", limits::measure),
    ("rate", rate::measure),
    ("stored", stored::measure),
    ("live", live::measure),
    ("line", line::measure),
    ("idle", idle::measure),
    ("usage", stats::measure),
    ("followers", followers::measure),
    ("restart", restart::measure),
    ("scale", scale::measure),
];

/// Succeeds when everything could be measured, whether or not the targets are met.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if !nix::unistd::geteuid().is_root() {
        bail!("bench must run as root: it reads the memory of the broker and of the shims");
    }
    let needed = [("/usr/sbin/sshd", "openssh-server"), ("ssh", "openssh-client")];
    packages::ensure(&needed, "to compare with")?;
    let profile = if args.dev { Profile::Dev } else { Profile::Release };
    let programs = programs::build(profile)?;
    interrupt::watch()?;
    let (sshd, open_dir, quick, jobs) = (Sshd::start()?, open_dir()?, args.quick, args.jobs);
    let bench = Bench { programs, sshd, open_dir, quick, jobs, profile };
    let mut rows = Vec::new();
    for (name, measure) in MEASUREMENTS {
        if !args.filter.is_empty() && !args.filter.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        eprintln!("xtask: measuring: {name}");
        rows.extend(measure(&bench).with_context(|| format!("measuring: {name}"))?);
    }
    print!("{}", report::table(&rows));
    if let Some(path) = &args.json {
        fs::write(path, report::json(&rows)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn open_dir() -> Result<TempDir> {
    let dir = tempfile::Builder::new().prefix("job-bench-").tempdir()?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    let own = std::env::current_exe().context("cannot find xtask's own program")?;
    fs::copy(own, dir.path().join("xtask")).context("cannot copy xtask")?;
    Ok(dir)
}

/// The value below which a fraction of the samples lies.
fn quantile(samples: &[f64], fraction: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * fraction).round() as usize).copied().unwrap_or(f64::NAN)
}

fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}
