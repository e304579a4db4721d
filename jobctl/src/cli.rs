//! The command line's grammar. What each word does is said in [`crate::help`].

mod begin;
mod control;
mod look;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use job_api::units::{parse_duration, parse_size};

use crate::{exit, help};

pub(crate) use begin::{JobOptions, Policy, Run, Start};
pub(crate) use control::{Admin, Kill, Prune, Rm, Selfcheck, Stop, TimeChange, Update};
pub(crate) use look::{Logs, Ps, State, Stats, Status, Stream, Streams, Until, Wait};

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
pub(crate) struct Reconnect {
    /// After a lost connection try this long; 0: never
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    #[arg(env = "JOBCTL_RECONNECT_TIMEOUT", hide_env_values = true)]
    pub(crate) reconnect_timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct OneJob {
    /// Its id, a unique beginning of it, or its name
    pub(crate) job: String,
}

#[derive(Debug, Args)]
pub(crate) struct Jobs {
    /// Ids, unique beginnings of ids, or names
    #[arg(required = true, value_name = "JOB")]
    pub(crate) jobs: Vec<String>,
    #[command(flatten)]
    pub(crate) reconnect: Reconnect,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Auth {
    /// Show your identity, whether you are an admin, and when your certificate expires
    #[command(after_help = help::WHOAMI)]
    Whoami,
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
