//! Options of commands that change jobs, and of `admin`.

use std::time::Duration;

use clap::{Args, Subcommand};
use job_api::signals::parse_signal;
use job_api::units::parse_duration;

use super::help;
use super::limits::{LIMITS, LimitOptions};
use super::options::{OneJob, Reconnect, positive_duration};

#[derive(Debug, Args)]
pub(crate) struct Update {
    #[command(flatten)]
    pub(crate) which: OneJob,
    /// Memory below what is in use: the kernel reclaims, and kills the job if that is not enough
    #[arg(short, long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) limits: LimitOptions,
    /// A new deadline from its start, e.g. 1h; or so much later than the old one: +10m
    #[arg(long, value_name = "[+]DURATION", value_parser = time_change, help_heading = LIMITS)]
    pub(crate) time: Option<TimeChange>,
}

/// What becomes of a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimeChange {
    To(Duration),
    By(Duration),
}

#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// Ids, unique beginnings of ids, or names
    #[arg(required = true, value_name = "JOB")]
    pub(crate) jobs: Vec<String>,
    /// From the stop signal to SIGKILL, 0: at once [default: the job's]
    #[arg(short = 't', long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) grace: Option<Duration>,
    /// Return at once; otherwise when nothing of the jobs is left
    #[arg(long)]
    pub(crate) no_wait: bool,
    #[command(flatten)]
    pub(crate) reconnect: Reconnect,
}

#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// Ids, unique beginnings of ids, or names
    #[arg(required = true, value_name = "JOB")]
    pub(crate) jobs: Vec<String>,
    /// By name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL", value_parser = parse_signal)]
    pub(crate) signal: i32,
}

#[derive(Debug, Args)]
pub(crate) struct Connect {
    /// End the kept connection
    #[arg(long, conflicts_with = "status")]
    pub(crate) stop: bool,
    /// Say whether there is one: exit status 0 for yes, 1 for no
    #[arg(long)]
    pub(crate) status: bool,
    /// Be the process that keeps it
    #[arg(long, hide = true, conflicts_with_all = ["stop", "status"])]
    pub(crate) hold: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// Ids, unique beginnings of ids, or names
    #[arg(required = true, value_name = "JOB")]
    pub(crate) jobs: Vec<String>,
    /// Kill it first if it has not ended
    #[arg(short, long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) reconnect: Reconnect,
}

#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// How long ago they must have ended, e.g. 12h, 7d
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) older_than: Duration,
    /// Say which, remove none
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Admin {
    /// Measure on the broker's host whether every limit is enforced there
    #[command(after_help = help::SELFCHECK)]
    Selfcheck(Selfcheck),
}

#[derive(Debug, Args)]
pub(crate) struct Selfcheck {
    /// A directory on the broker's host, on the disk to check; jobs must be allowed to mount and write it. The
    /// default is a job's own directory
    #[arg(long, value_name = "DIR", default_value = "/run/job")]
    pub(crate) directory: String,
}

fn time_change(text: &str) -> Result<TimeChange, String> {
    match text.strip_prefix('+') {
        Some(later) => positive_duration(later).map(TimeChange::By),
        None => positive_duration(text).map(TimeChange::To),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_set_anew_or_moved() {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        assert_eq!(time_change("90m"), Ok(TimeChange::To(minutes(90))));
        assert_eq!(time_change("+10m"), Ok(TimeChange::By(minutes(10))));
        for bad in ["", "+", "0", "+0s", "-10m", "++1m"] {
            assert!(time_change(bad).is_err(), "{bad}");
        }
    }
}
