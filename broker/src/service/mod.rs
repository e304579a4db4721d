//! The program `job-broker`: command line, start, reload, shutdown. It must leave every job running when it ends, except
//! for `drain`.

mod audit;
mod certificate_watch;
mod certificates;
mod check;
mod drain;
mod error;
mod host_check;
mod images;
mod monitoring;
mod policy_test;
mod preflight;
mod reload;
mod risks;
mod serving;
mod settings;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};

use crate::journal;
use crate::journal::Journal;
use crate::service::error::ServiceError;
use crate::systemd::notify::one_line;

/// Runs commands for remote users who are not trusted with a shell. Runs as root, usually as a
/// systemd service. SIGTERM ends it; its jobs go on, and the next one takes them over. SIGHUP makes
/// it read its configuration and certificates again.
#[derive(Debug, Parser)]
#[command(name = "job-broker", version)]
pub(crate) struct Arguments {
    /// The configuration file
    #[arg(long, global = true, value_name = "FILE", default_value = "/etc/job-broker/config.toml")]
    config: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say all that is wrong with the configuration and its certificates, and what expires soon: exit
    /// status 0 if a broker can run with them and be reached, else 1
    CheckConfig,
    /// What `check-config` and `preflight` have another process look at
    #[command(hide = true)]
    CheckHost,
    /// Look at what was recorded of who did what
    #[command(subcommand)]
    Audit(audit::Command),
    /// Images, the roots of jobs that name one: import, list, remove
    #[command(subcommand)]
    Images(images::Command),
    /// The policy: what identities may do
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Say whether this program could start and take over all jobs that run, from beside the broker
    /// that has them: exit status 0, or 1 and those that it could not. Changes nothing
    Preflight,
    /// End all jobs in good order: stop signal, grace, records. For the end of the host, when no
    /// broker runs any more
    Drain {
        /// The longest grace that a job gets, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        grace: u64,
    },
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Ask the policy the questions of FILE, and say where an answer is not the expected one: exit status
    /// 0 if all are, else 1
    Test {
        /// A TOML table of questions and verdicts, see docs/OPERATING.md
        file: PathBuf,
        /// Ask this policy file in place of the configured one
        #[arg(long, value_name = "FILE")]
        policy: Option<PathBuf>,
    },
}

/// EX_CONFIG of sysexits.h: the same configuration would fail again, so a service manager need not restart the
/// broker.
const BAD_CONFIG: u8 = 78;

/// The command line's grammar, for the manual page and completions.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// The program `job-broker`. Exit status 0 after SIGTERM or SIGINT, 1 if the program could not run, 78 for a fault in
/// configuration or certificates, 2 for a wrong command line.
pub fn run() -> ExitCode {
    let Arguments { config, command } = Arguments::parse();
    if let Some(Command::Images(command)) = command {
        return images::run(&config, command); // before another thread exists, which would not be confined
    }
    crate::sys::keep_freed_memory(); // before another thread exists
    let log = match Journal::start() {
        Ok(log) => log,
        Err(e) => {
            journal::error(format_args!("cannot write a log: {e}"));
            return ExitCode::FAILURE;
        }
    };
    let ended = match command {
        Some(Command::CheckConfig) => return check::run(&config),
        Some(Command::CheckHost) => return host_check::run(&config),
        Some(Command::Audit(command)) => return audit::run(&config, command),
        Some(Command::Images(command)) => return images::run(&config, command),
        Some(Command::Policy(PolicyCommand::Test { file, policy })) => {
            return policy_test::run(&config, policy, &file);
        }
        Some(Command::Preflight) => preflight::run(&config),
        Some(Command::Drain { grace }) => drain::run(&config, Duration::from_secs(grace)),
        None => serving::run(config, &log),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log.final_error(one_line(&error));
            match error {
                ServiceError::Settings(_) => ExitCode::from(BAD_CONFIG),
                _ => ExitCode::FAILURE,
            }
        }
    }
}
