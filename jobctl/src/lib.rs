//! The remote command line of the job broker.
//!
//! [`run()`] parses a command line, runs one command and answers with the exit status; `exit.rs` decides
//! all of them. [`command`] is the grammar, for manual pages and completions.
//!
//! The rooms, each using only those after it: `commands` (what each does), `client` (the broker, over a
//! network that fails), `print` (standard output), `cli` (the grammar), `exit`, `failure`, `format`
//! (values as text), `sys` (unsafe code). `cargo xtask floors` holds the order.

mod cli;
mod client;
mod commands;
mod exit;
mod failure;
mod format;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod print;
#[cfg(test)]
mod snapshots;
mod sys;

use std::ffi::OsString;
use std::future::Future;

use clap::{CommandFactory as _, Parser as _};

use crate::cli::{Admin, Auth, Cli, Command, Connect, Global};
use crate::commands::control::{stop, update};
use crate::commands::query::{audit, info, inspect, logs, ps, quota, stats};
use crate::commands::start::{can_i, run};
use crate::commands::{config, connect, selfcheck};
use crate::failure::{Failure, Result};
use crate::print::sink;

/// Runs one command line, the program's name first, and answers with its exit status.
pub fn run(words: impl IntoIterator<Item = OsString>) -> i32 {
    let Cli { global, command } = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody reads it: there is nobody left to tell.
            let _ = error.print();
            return exit::of_parsing(&error);
        }
    };
    let runs_a_job = matches!(command, Command::Run(_) | Command::Start(_) | Command::Wait(_));
    match dispatch(&global, command) {
        Ok(status) => status,
        Err(failure) => {
            failure.print();
            exit::of_failure(&failure, runs_a_job)
        }
    }
}

/// Ends the process at once: a thread that is blocked in reading the terminal must not hold it, and
/// an allocator that tidies up costs a short run a tenth of a millisecond.
pub fn leave(status: i32) -> ! {
    // What cannot be written now has a reader that is gone.
    let _ = std::io::Write::flush(&mut std::io::stdout());
    sys::exit_now(status)
}

/// The grammar of the command line.
pub fn command() -> clap::Command {
    Cli::command()
}

fn dispatch(global: &Global, command: Command) -> Result<i32> {
    match command {
        Command::Config(command) => return config::config(global, &command).map(|()| exit::OK),
        Command::Version => return version().map(|()| exit::OK),
        Command::Completion { shell } => return completion(shell).map(|()| exit::OK),
        Command::Connect(Connect { hold: true, .. }) => sys::detach(),
        _ => {}
    }
    // One thread: the whole process is over in milliseconds, and one is twice as fast on output.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::usage(format!("cannot set up: {error}")))?;
    let status = runtime.block_on(remote(global, command));
    // A look-up of a host name may still hold a thread.
    runtime.shutdown_background();
    status
}

async fn remote(global: &Global, command: Command) -> Result<i32> {
    let done = match command {
        Command::Run(command) => return run::run(global, command).await,
        Command::Wait(command) => return or_interrupted(logs::wait(global, command)).await,
        Command::Logs(command) => {
            let logs = logs::logs(global, command.which, command.follow);
            return or_interrupted(async { logs.await.map(|()| exit::OK) }).await;
        }
        Command::Stream(which) => {
            let logs = logs::logs(global, which, true);
            return or_interrupted(async { logs.await.map(|()| exit::OK) }).await;
        }
        Command::Audit(command) => {
            let audit = audit::audit(global, command);
            return or_interrupted(async { audit.await.map(|()| exit::OK) }).await;
        }
        Command::Stats(command) => return stats::stats(global, command).await,
        Command::Admin(Admin::Selfcheck(command)) => {
            return selfcheck::selfcheck(global, command).await;
        }
        Command::Connect(command) => return connect::connect(global, &command).await,
        Command::Auth(Auth::CanI(command)) => return can_i::can_i(global, *command).await,
        Command::Start(command) => run::start(global, command).await,
        Command::Ps(command) => ps::ps(global, command).await,
        Command::Status(command) => inspect::status(global, command).await,
        Command::Inspect(command) => inspect::inspect(global, command).await,
        Command::Stop(command) => stop::stop(global, command).await,
        Command::Kill(command) => stop::kill(global, command).await,
        Command::Pause(command) => update::pause(global, command).await,
        Command::Resume(command) => update::resume(global, command).await,
        Command::Update(command) => update::update(global, command).await,
        Command::Rm(command) => stop::rm(global, command).await,
        Command::Prune(command) => stop::prune(global, command).await,
        Command::Quota(command) => quota::quota(global, command).await,
        Command::Info => info::info(global).await,
        Command::Auth(Auth::Whoami) => inspect::whoami(global).await,
        Command::Config(_) | Command::Version | Command::Completion { .. } => Ok(()),
    };
    done.map(|()| exit::OK)
}

/// Ctrl-C ends the command with 130, not the job.
async fn or_interrupted(command: impl Future<Output = Result<i32>>) -> Result<i32> {
    tokio::select! {
        status = command => status,
        Ok(()) = tokio::signal::ctrl_c() => Ok(exit::INTERRUPTED),
    }
}

fn version() -> Result<()> {
    sink::print(concat!("jobctl ", env!("CARGO_PKG_VERSION"), "\n"))
}

fn completion(shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "jobctl", &mut script);
    sink::print(&String::from_utf8_lossy(&script))
}
