//! The command line's grammar. What each word does is said in [`crate::help`].

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use job_api::signals::parse_signal;
use job_api::units::{parse_duration, parse_size};
use job_api::v1::Rlimit;

use crate::limits::{LIMITS, LimitOptions, parse_ulimit};
use crate::{exit, help};

/// Run commands on a job broker's host: streamed live, killable as a whole, never run twice.
#[derive(Debug, Parser)]
#[command(name = "jobctl", version, after_help = exit::HELP, max_term_width = 100)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Use this context of the configuration, before any variable
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// The broker [variable: JOBCTL_ADDR]
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub(crate) addr: Option<String>,
    /// PEM file of the authority that signed the broker's certificate [variable: JOBCTL_CA]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// PEM file of your certificate; its name owns what you start [variable: JOBCTL_CERT]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) cert: Option<PathBuf>,
    /// PEM file of your private key [variable: JOBCTL_KEY]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// How to print answers: table, wide, json, yaml, name
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        hide_possible_values = true
    )]
    #[arg(help = "How to print answers: table, wide, json, yaml, name")]
    pub(crate) output: Option<Format>,
    /// Only what was asked for: no notices; of lists, the ids
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Wide,
    Json,
    Yaml,
    Name,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command, stream its output, exit as it did
    #[command(after_help = help::RUN)]
    #[command(override_usage = "jobctl run [OPTIONS] [--] CMD [ARGS]...")]
    Run(Run),
    /// Start a command, print the job's id and return
    #[command(after_help = help::START)]
    #[command(override_usage = "jobctl start [OPTIONS] [--] CMD [ARGS]...")]
    Start(Start),
    /// List jobs
    #[command(visible_alias = "list", after_help = help::PS)]
    Ps(Ps),
    /// Show what jobs use: CPU, memory, processes, io; a line each, once a second
    #[command(after_help = help::STATS)]
    Stats(Stats),
    /// Show a job in short
    #[command(after_help = help::STATUS)]
    Status(Status),
    /// Show everything that is known of a job
    #[command(after_help = help::INSPECT)]
    Inspect(OneJob),
    /// Print a job's output
    #[command(after_help = help::LOGS)]
    Logs(Logs),
    /// Print a job's output and follow it: logs -f
    #[command(after_help = help::STREAM)]
    Stream(Stream),
    /// Wait for jobs, exit as they did
    #[command(after_help = help::WAIT)]
    Wait(Wait),
    /// Ask jobs to end; after a grace period they are killed, whole trees
    #[command(after_help = help::STOP)]
    Stop(Stop),
    /// Send jobs a signal
    #[command(after_help = help::KILL)]
    Kill(Kill),
    /// Freeze jobs: their processes stand still until "resume"
    #[command(after_help = help::PAUSE)]
    Pause(Jobs),
    /// Let paused jobs go on
    #[command(after_help = help::RESUME)]
    Resume(Jobs),
    /// Change the limits of a job that has not ended
    #[command(after_help = help::UPDATE)]
    Update(Update),
    /// Remove ended jobs with their output
    #[command(after_help = help::RM)]
    Rm(Rm),
    /// Remove your jobs that ended some time ago
    #[command(after_help = help::PRUNE)]
    Prune(Prune),
    /// Show the broker: its host, its version, what it can do
    #[command(after_help = help::INFO)]
    Info,
    /// Who you are to the broker
    #[command(subcommand)]
    Auth(Auth),
    /// What only admins may do
    #[command(subcommand)]
    Admin(Admin),
    /// Keep brokers' addresses and your certificates under names
    #[command(subcommand, after_help = help::CONFIG)]
    Config(Config),
    /// Print jobctl's version
    Version,
    /// Print a completion script for a shell
    #[command(after_help = help::COMPLETION)]
    Completion {
        /// Which shell's
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Pass standard input on; without it the job reads /dev/null
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// On a terminal, let control characters of the output through as they are
    #[arg(long)]
    pub(crate) raw: bool,
    #[command(flatten)]
    pub(crate) reconnect: Reconnect,
    #[command(flatten)]
    pub(crate) job: JobOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Start {
    #[command(flatten)]
    pub(crate) reconnect: Reconnect,
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
    /// Directory to run in, on the broker's host [default: /]
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
    /// The program and its arguments; a shell only if you name one
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    pub(crate) argv: Vec<String>,
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
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Policy {
    Discard,
    Block,
    Kill,
}

#[derive(Debug, Args)]
pub(crate) struct Reconnect {
    /// After a lost connection try this long; 0: never
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    #[arg(env = "JOBCTL_RECONNECT_TIMEOUT", hide_env_values = true)]
    pub(crate) reconnect_timeout: Duration,
}

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
    /// At most so many, the newest
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
pub(crate) struct OneJob {
    /// Its id, a unique beginning of it, or its name
    pub(crate) job: String,
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
pub(crate) struct Jobs {
    /// Ids, unique beginnings of ids, or names
    #[arg(required = true, value_name = "JOB")]
    pub(crate) jobs: Vec<String>,
    #[command(flatten)]
    pub(crate) reconnect: Reconnect,
}

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
pub(crate) enum Auth {
    /// Show your identity, whether you are an admin, and when your certificate expires
    #[command(after_help = help::WHOAMI)]
    Whoami,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Admin {
    /// Measure on the broker's host whether every limit is enforced there
    #[command(after_help = help::SELFCHECK)]
    Selfcheck(Selfcheck),
}

#[derive(Debug, Args)]
pub(crate) struct Selfcheck {
    /// A directory on the broker's host, on the disk to check; jobs must be allowed to write there
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    pub(crate) directory: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// List the contexts, the current one marked
    GetContexts,
    /// Make a context the current one
    UseContext {
        /// Its name
        name: String,
    },
    /// Make or change a context, with --addr, --ca, --cert and --key
    #[command(after_help = help::SET_CONTEXT)]
    SetContext {
        /// Its name
        name: String,
    },
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("\"{text}\" is not KEY=VALUE")),
    }
}

fn time_change(text: &str) -> Result<TimeChange, String> {
    match text.strip_prefix('+') {
        Some(later) => positive_duration(later).map(TimeChange::By),
        None => positive_duration(text).map(TimeChange::To),
    }
}

pub(crate) fn positive_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("must be longer than nothing".into()),
        time => Ok(time),
    }
}

pub(crate) fn positive_size(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        0 => Err("must be more than nothing".into()),
        size => Ok(size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn run(args: &[&str]) -> Run {
        let words = ["jobctl", "run"].iter().chain(args);
        match Cli::try_parse_from(words).expect("parses").command {
            Command::Run(run) => run,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_the_program_belongs_to_it() {
        assert_eq!(run(&["ls", "-l", "--name", "x"]).job.argv, ["ls", "-l", "--name", "x"]);
        assert_eq!(run(&["--", "ls", "-l"]).job.argv, ["ls", "-l"]);
        assert_eq!(run(&["--", "-strange"]).job.argv, ["-strange"]);
        assert_eq!(run(&["sh", "-c", "x", "--", "y"]).job.argv, ["sh", "-c", "x", "--", "y"]);
        assert_eq!(run(&["--name", "n", "ls", "-q"]).job.name.as_deref(), Some("n"));
        assert!(Cli::try_parse_from(["jobctl", "run", "--no-such", "ls"]).is_err());
        assert!(Cli::try_parse_from(["jobctl", "run"]).is_err());
    }

    #[test]
    fn a_deadline_is_set_anew_or_moved() {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        assert_eq!(time_change("90m"), Ok(TimeChange::To(minutes(90))));
        assert_eq!(time_change("+10m"), Ok(TimeChange::By(minutes(10))));
        for bad in ["", "+", "0", "+0s", "-10m", "++1m"] {
            assert!(time_change(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn limits_of_a_process_cannot_be_updated() {
        assert!(Cli::try_parse_from(["jobctl", "update", "x", "--cpus", "1"]).is_ok());
        assert!(Cli::try_parse_from(["jobctl", "update", "x", "--ulimit", "core=0"]).is_err());
    }

    #[test]
    fn global_options_stand_before_and_after_the_command() {
        for words in [["jobctl", "-o", "json", "ps"], ["jobctl", "ps", "-o", "json"]] {
            let cli = Cli::try_parse_from(words).expect("parses");
            assert_eq!(cli.global.output, Some(Format::Json));
        }
        let cli = Cli::try_parse_from(["jobctl", "run", "-q", "ls", "-q"]).expect("parses");
        assert!(cli.global.quiet);
    }
}
