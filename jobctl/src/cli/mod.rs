//! The command line's grammar. [`help`] has the texts below the options.

mod control;
mod help;
mod isolation;
pub(crate) mod limits;
mod options;
mod query;
mod start;

use clap::{Parser, Subcommand};

use crate::exit;

pub(crate) use control::{Admin, Connect, Kill, Prune, Rm, Selfcheck, Stop, TimeChange, Update};
pub(crate) use limits::rlimits;
pub(crate) use options::{Format, Global, Jobs, OneJob};
pub(crate) use query::{
    Audit, Logs, Ps, Quota, State, Stats, Status, Stream, Streams, Until, Wait,
};
pub(crate) use start::{CanI, JobOptions, Policy, Run, Start};

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
    /// Show what you may take of the broker's host, and what of it is in use
    #[command(after_help = help::QUOTA)]
    Quota(Quota),
    /// Show who did what, by which rule, with which outcome: the broker's audit, for admins
    #[command(after_help = help::AUDIT)]
    Audit(Audit),
    /// Who you are to the broker
    #[command(subcommand)]
    Auth(Auth),
    /// What only admins may do
    #[command(subcommand)]
    Admin(Admin),
    /// Keep brokers' addresses and your certificates under names
    #[command(subcommand, after_help = help::CONFIG)]
    Config(Config),
    /// Keep a connection to the broker, which later commands use
    #[command(after_help = help::CONNECT)]
    Connect(Connect),
    /// Print jobctl's version
    Version,
    /// Print a completion script for a shell
    #[command(after_help = help::COMPLETION)]
    Completion {
        /// Which shell's
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Auth {
    /// Show your identity, whether you are an admin, and when your certificate expires
    #[command(after_help = help::WHOAMI)]
    Whoami,
    /// Ask whether the broker's policy allows something: exit status 0 for yes, 1 for no. Does nothing
    #[command(after_help = help::CAN_I)]
    #[command(override_usage = "jobctl auth can-i [OPTIONS] VERB [--] [CMD] [ARGS]...")]
    CanI(Box<CanI>),
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
        /// Keep a connection for later commands until it was idle for this time, e.g. 10m
        #[arg(long, value_name = "DURATION")]
        persist: Option<String>,
    },
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
        assert_eq!(run(&["ls", "-l", "--name", "x"]).argv, ["ls", "-l", "--name", "x"]);
        assert_eq!(run(&["--", "ls", "-l"]).argv, ["ls", "-l"]);
        assert_eq!(run(&["--", "-strange"]).argv, ["-strange"]);
        assert_eq!(run(&["sh", "-c", "x", "--", "y"]).argv, ["sh", "-c", "x", "--", "y"]);
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
