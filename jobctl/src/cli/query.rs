//! Options of commands that only read.

use clap::{Args, ValueEnum};

use super::options::{Compress, OneJob, Reconnect, key_value};

#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Ended jobs too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Only jobs in this state, may be repeated
    #[arg(long = "state", value_enum, value_name = "STATE")]
    pub(crate) states: Vec<State>,
    /// Only this owner's (yours are all you see, unless the broker has you as an admin)
    #[arg(long, value_name = "NAME")]
    pub(crate) owner: Option<String>,
    /// Only jobs with this label, may be repeated
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) labels: Vec<(String, String)>,
    /// At most this many, the newest
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum State {
    Starting,
    Running,
    Paused,
    Stopping,
    Finished,
    Lost,
}

#[derive(Debug, Args)]
pub(crate) struct Quota {
    /// Whose (yours, unless the broker has you as an admin)
    #[arg(long, value_name = "NAME")]
    pub(crate) owner: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// Go on with what happens from now on
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only about this owner's jobs, and what this identity did
    #[arg(long, value_name = "NAME")]
    pub(crate) owner: Option<String>,
    /// Only about this job: its id or a unique beginning of it; it need not exist any more
    #[arg(long, value_name = "ID")]
    pub(crate) job: Option<String>,
    /// Only this: start, view, logs, input, stop, signal, update, pause, delete, admin, or "end" of jobs
    #[arg(long, value_name = "VERB")]
    pub(crate) verb: Option<String>,
    /// Only what was written since: 10m (ago), or 2026-01-31T08:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    #[command(flatten)]
    pub(crate) reconnect: Reconnect,
}

#[derive(Debug, Args)]
pub(crate) struct Stats {
    /// Ids, unique beginnings of ids, or names [default: all that have not ended]
    #[arg(value_name = "JOB")]
    pub(crate) jobs: Vec<String>,
    /// Print once and return
    #[arg(long)]
    pub(crate) no_stream: bool,
    /// Print once a second, also where it is not the default
    #[arg(long, conflicts_with = "no_stream")]
    pub(crate) stream: bool,
    #[command(flatten)]
    pub(crate) reconnect: Reconnect,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) which: OneJob,
    /// A table of its limits: what was asked, what the kernel took, what binds
    #[arg(long)]
    pub(crate) limits: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Go on until the job has ended
    #[arg(short, long)]
    pub(crate) follow: bool,
    #[command(flatten)]
    pub(crate) which: Stream,
}

#[derive(Debug, Args)]
pub(crate) struct Stream {
    /// Its id, a unique beginning of it, or its name
    pub(crate) job: String,
    /// Which of the two
    #[arg(long, value_enum, default_value = "both")]
    pub(crate) stream: Streams,
    /// Only the last lines, as many as this
    #[arg(long, value_name = "N")]
    pub(crate) tail: Option<u64>,
    /// Only what was written since: 10m (ago), or 2026-01-31T08:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Begin each line with the time at which it was written
    #[arg(long)]
    pub(crate) timestamps: bool,
    /// Begin at this byte; needs --stream stdout or stderr
    #[arg(long, value_name = "BYTE")]
    pub(crate) from_offset: Option<u64>,
    /// On a terminal, let control characters of the output through as they are
    #[arg(long)]
    pub(crate) raw: bool,
    #[command(flatten)]
    pub(crate) compress: Compress,
    #[command(flatten)]
    pub(crate) reconnect: Reconnect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Streams {
    Stdout,
    Stderr,
    Both,
}

#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// Ids, unique beginnings of ids, or names
    #[arg(required = true, value_name = "JOB")]
    pub(crate) jobs: Vec<String>,
    /// Until the exit status is known, or until the end: nothing of it is left, its output is whole
    #[arg(long, value_enum, default_value = "exit", hide_possible_values = true)]
    #[arg(value_name = "exit|end")]
    pub(crate) until: Until,
    #[command(flatten)]
    pub(crate) reconnect: Reconnect,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Until {
    Exit,
    End,
}
