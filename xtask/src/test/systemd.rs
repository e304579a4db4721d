//! The package, installed and upgraded in machines with systemd.

use std::env::join_paths;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::END_TO_END;
use crate::programs::{self, Profile, Programs};
use crate::vm::Suite;
use crate::{package, process, workspace};

/// Makes two versions of the package, which speak two versions of the shims' protocol, and runs the tests that change their machine in one with this
/// suite.
///
/// # Errors
/// The build, the machine, or tests that fail.
pub(super) fn run(suite: Suite, filter: &[String], programs: &Programs) -> Result<()> {
    let old = package::make(Profile::Dev, 1, programs)?;
    let new = package::make(Profile::Dev, 2, &programs.of_next_version()?)?;
    let mut build = workspace::cargo();
    build.args(["test", "-p", END_TO_END, "--test", "systemd", "--no-run"]);
    let mut tests = programs::executables(&mut build, "test")?;
    let tests = tests.remove("systemd").context("there is no test \"systemd\"")?;
    let own = std::env::current_exe().context("cannot find xtask's own program")?;
    let mut command = Command::new(own);
    command.args(["vm", "--systemd", suite.name(), "--"]).arg(tests);
    command.args(["--ignored", "--test-threads=1"]).args(filter);
    let packages = join_paths([old, new]).context("a path with a colon")?;
    command.envs(programs.environment()).env("JOB_PACKAGES", packages);
    match process::status(&mut command)?.code() {
        Some(0) => Ok(()),
        Some(125) => bail!("the VM failed"),
        _ => bail!("some tests failed"),
    }
}
