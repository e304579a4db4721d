//! The command line, and which file does what.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{programs, test, vm};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own commands", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build job-broker, jobctl, job-certs and the static job-shim, and say where they are
    Build(programs::Args),
    /// Formatting, lints, unit tests, end-to-end tests here and in the testbed VM
    Test(test::Args),
    /// Run a command as root in a throw-away VM with full cgroup v2, and exit as it did
    Vm(vm::Args),
}

/// Parses the command line and runs the command; an error is printed with its causes and exits 1.
pub(crate) fn dispatch() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Build(args) => programs::run(&args),
        Command::Test(args) => test::run(&args),
        // Like `docker run`: 125 is the VM's own failure, everything else is the command's status.
        Command::Vm(args) => return vm::run(&args).unwrap_or_else(|e| fail(&e, 125)),
    };
    result.unwrap_or_else(|error| fail(&error, 1))
}

fn fail(error: &anyhow::Error, status: u8) -> ExitCode {
    eprintln!("xtask: {error:#}");
    ExitCode::from(status)
}
