//! The package, installed and upgraded in machines with systemd that go down and come again.

use std::env::join_paths;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::kept::Log;
use super::own::{END_TO_END, own_command};
use super::retry;
use crate::process::quoted;
use crate::programs::{self, Profile, Programs};
use crate::vm::Suite;
use crate::{package, workspace};

/// What a machine with systemd is given.
pub(super) struct Ready<'a> {
    /// The command, for each boot.
    script: String,
    /// For `JOB_PACKAGES`.
    packages: OsString,
    programs: &'a Programs,
}

/// Makes two versions of the package, which speak two versions of the shims' protocol, and builds the
/// tests that change their machine.
///
/// # Errors
/// The builds.
pub(super) fn prepare<'a>(filter: &[String], programs: &'a Programs) -> Result<Ready<'a>> {
    let old = package::make(Profile::Dev, 1, programs)?;
    let new = package::make(Profile::Dev, 2, &programs.of_next_version()?)?;
    let packages = join_paths([old, new]).context("a path with a colon")?;
    let mut build = workspace::cargo();
    build.args(["test", "-p", END_TO_END, "--test", "systemd", "--test", "reboot", "--no-run"]);
    let tests = programs::tests(&mut build)?;
    let test = |name| {
        let test = tests.iter().find(|test| test.name == name).map(|test| test.path.as_path());
        test.with_context(|| format!("there is no test {name:?}"))
    };
    let script = script(test("systemd")?, test("reboot")?, filter);
    Ok(Ready { script, packages, programs })
}

/// Both in one machine, which saves a boot. The second ends with a machine that goes down, and goes
/// on when that is up again.
fn script(systemd: &Path, reboot: &Path, filter: &[String]) -> String {
    let arguments: Vec<_> = filter.iter().map(|word| quoted(word)).collect();
    let run = |test: &Path| {
        let test = quoted(&test.to_string_lossy());
        format!("{test} --ignored --test-threads=1 {}", arguments.join(" "))
    };
    let status = "/var/tmp/systemd-tests";
    format!(
        "[ -e {status} ] || {{ {}; echo $? >{status}; }}; {} && exit $(cat {status})",
        run(systemd),
        run(reboot)
    )
}

/// What the tests in a machine with systemd have said, and how they ended.
pub(super) struct Finished {
    log: Log,
    status: ExitStatus,
    /// They have failed in a machine before this one.
    is_second: bool,
    pub(super) took: Duration,
}

/// Runs the tests in a machine with this suite, beside others: what they say is kept for later. Those
/// that fail have all been looked at once more, in a new machine, when this answers: each builds on
/// what the one before has left.
///
/// # Errors
/// The machine's process or its log cannot be made.
pub(super) fn run(suite: Suite, ready: &Ready<'_>) -> Result<Finished> {
    let begin = Instant::now();
    let log = Log::create(suite.name())?;
    let mut status = log.run(&mut machine(suite, ready)?)?;
    // The machine's own failures, and signals, have no second look.
    let is_second = !matches!(status.code(), None | Some(0 | 125 | 128..));
    if is_second {
        log.run(Command::new("echo").arg("\n=== once more, in a new machine"))?;
        status = log.run(&mut machine(suite, ready)?)?;
    }
    Ok(Finished { log, status, is_second, took: begin.elapsed() })
}

fn machine(suite: Suite, ready: &Ready<'_>) -> Result<Command> {
    let mut command = own_command()?;
    command.args(["vm", "--systemd", suite.name(), "--boots", "3", "--timeout", "1h"]);
    command.args(["--", "sh", "-c", &ready.script]);
    command.envs(ready.programs.environment()).env("JOB_PACKAGES", &ready.packages);
    Ok(command)
}

impl Finished {
    /// Passes on what was said, and adds what is to be said of flaky tests.
    ///
    /// # Errors
    /// The machine, or tests that failed.
    pub(super) fn check_outcome(&self, flaky: &mut Vec<String>) -> Result<()> {
        self.log.pass_on();
        retry::judge(self.status.code())?;
        let passed = "some of the package's tests failed, and all passed in a new machine";
        flaky.extend(self.is_second.then(|| passed.to_owned()));
        Ok(())
    }
}
