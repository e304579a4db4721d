//! The project's own commands, as `cargo xtask COMMAND`.
//!
//! [`run`] reads the command line (`cli`) and hands over to the file that is named after the command.
//! What several commands need stands beside them: `workspace` (where things are), `process` (running
//! other programs), `packages` (Debian packages), `programs` (building ours).

mod cli;
mod packages;
mod process;
mod programs;
mod size;
mod test;
mod vm;
mod workspace;

use std::process::ExitCode;

/// Runs the command that the process was started with, and says with which status to exit.
pub fn run() -> ExitCode {
    cli::dispatch()
}
