//! Options of commands that start a job.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use job_api::signals::parse_signal;
use job_api::units::parse_duration;
use job_api::v1::Rlimit;

use super::isolation::IsolationOptions;
use super::limits::{LIMITS, LimitOptions, parse_ulimit, size};
use super::options::{Compress, Reconnect, key_value, positive_duration};

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Pass standard input on; without it the job reads /dev/null
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// On a terminal, let control characters of the output through as they are
    #[arg(long)]
    pub(crate) raw: bool,
    /// The program and its arguments; a shell only if you name one. An image may have its own
    #[arg(required_unless_present = "image", trailing_var_arg = true, value_name = "CMD")]
    pub(crate) argv: Vec<String>,
    #[command(flatten)]
    pub(crate) compress: Compress,
    #[command(flatten)]
    pub(crate) reconnect: Reconnect,
    #[command(flatten)]
    pub(crate) job: JobOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Start {
    /// The program and its arguments; a shell only if you name one. An image may have its own
    #[arg(required_unless_present = "image", trailing_var_arg = true, value_name = "CMD")]
    pub(crate) argv: Vec<String>,
    #[command(flatten)]
    pub(crate) reconnect: Reconnect,
    #[command(flatten)]
    pub(crate) job: JobOptions,
}

#[derive(Debug, Args)]
pub(crate) struct CanI {
    /// start, view, logs, input, stop, signal, update, pause, delete, attach, exec or admin
    pub(crate) verb: String,
    /// Whose jobs [default: yours]
    #[arg(long, value_name = "IDENTITY", conflicts_with = "job_id")]
    pub(crate) owner: Option<String>,
    /// A job: an id, a unique prefix of one, or a name
    #[arg(long = "job", id = "job_id", value_name = "JOB")]
    pub(crate) of: Option<String>,
    /// Say which rule of the policy gives the answer; of a no, which role comes nearest and what it lacks
    #[arg(long)]
    pub(crate) explain: bool,
    /// With start: the program and its arguments
    #[arg(trailing_var_arg = true, value_name = "CMD")]
    pub(crate) argv: Vec<String>,
    #[command(flatten)]
    pub(crate) job: JobOptions,
}

#[derive(Debug, Args)]
pub(crate) struct JobOptions {
    /// Name it; unique among your jobs that have not ended
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Label it, may be repeated
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) labels: Vec<(String, String)>,
    /// Set a variable, or take it from your environment; may be repeated
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Variables from a file: lines of NAME=VALUE or NAME, comments with #; -e overrules it
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Directory to run in, on the broker's host [default: $JOB_DIR, the job's own]
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// Account to run as, as far as the broker allows: nobody, pool, or a name
    #[arg(long, value_name = "ACCOUNT")]
    pub(crate) user: Option<String>,
    /// What asks it to end [default: TERM]
    #[arg(long, value_name = "SIGNAL", value_parser = parse_signal)]
    pub(crate) stop_signal: Option<i32>,
    /// From that signal to SIGKILL [default: the broker's, 10s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) stop_timeout: Option<Duration>,
    /// Repeating a start with the same id gives the job of the first one [default: a fresh one]
    #[arg(long, value_name = "ID")]
    pub(crate) request_id: Option<String>,
    #[command(flatten)]
    pub(crate) limits: LimitOptions,
    /// Output past the limit: discard (and count), block (the job waits) or kill it [default: discard]
    #[arg(long, value_enum, value_name = "POLICY", hide_possible_values = true)]
    #[arg(help_heading = LIMITS)]
    pub(crate) output_policy: Option<Policy>,
    /// End it after this time, e.g. 90s, 1h30m
    #[arg(long, value_name = "DURATION", value_parser = positive_duration, help_heading = LIMITS)]
    pub(crate) time: Option<Duration>,
    /// A limit of each of its processes, e.g. nofile=1024, core=0; may be repeated
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]", value_parser = parse_ulimit)]
    #[arg(help_heading = LIMITS)]
    pub(crate) ulimits: Vec<Rlimit>,
    /// What its own directory ($JOB_DIR) may hold on disk, e.g. 1G
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = LIMITS)]
    pub(crate) job_dir_size: Option<u64>,
    #[command(flatten)]
    pub(crate) isolation: IsolationOptions,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Policy {
    Discard,
    Block,
    Kill,
}
