//! What the steps of the test command run.

use std::process::Command;

use anyhow::Result;

use crate::workspace;

/// The package with the end-to-end tests.
pub(super) const END_TO_END: &str = "job-tests";

/// xtask itself, as a process of its own.
pub(super) fn own_command() -> Result<Command> {
    Ok(Command::new(workspace::own_program()?))
}
