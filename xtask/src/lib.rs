//! The project's own commands, as `cargo xtask COMMAND`.
//!
//! [`run`] reads the command line (`cli`) and hands over to the file that is named after the command.
//! What several commands need stands beside them: `workspace` (where things are), `process` (running
//! other programs), `root` (running them as root), `interrupt` (ending them on Ctrl-C), `packages`
//! (Debian packages), `programs` (building ours), `table` (Markdown), `site` (a broker with all that belongs to it).

mod bench;
mod cli;
mod demo;
mod down;
mod floors;
mod fuzz;
mod interrupt;
mod package;
mod packages;
mod process;
mod programs;
mod restart;
mod root;
mod site;
mod size;
mod soak;
mod supply;
mod table;
mod test;
mod tidy;
mod up;
mod vm;
mod workspace;

use std::process::ExitCode;

/// Runs the command that the process was started with, and says with which status to exit.
pub fn run() -> ExitCode {
    cli::dispatch()
}
