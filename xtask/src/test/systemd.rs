//! The package, installed and upgraded in machines with systemd that go down and come again.

use std::env::join_paths;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::END_TO_END;
use crate::process::quoted;
use crate::programs::{self, Profile, Programs};
use crate::vm::Suite;
use crate::{package, process, workspace};

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
    let mut tests = programs::executables(&mut build, "test")?;
    let mut take = |name| tests.remove(name).with_context(|| format!("there is no test {name:?}"));
    let script = script(&take("systemd")?, &take("reboot")?, filter);
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
    said: Vec<u8>,
    status: ExitStatus,
    pub(super) took: Duration,
}

/// Runs the tests in a machine with this suite, beside others: what they say is kept for later.
///
/// # Errors
/// The machine's process or its log cannot be made.
pub(super) fn run(suite: Suite, ready: &Ready<'_>) -> Result<Finished> {
    let begin = Instant::now();
    let own = std::env::current_exe().context("cannot find xtask's own program")?;
    let log = workspace::target_dir()?.join(format!("testbed-{}.log", suite.name()));
    let file = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
    let mut command = Command::new(own);
    command.args(["vm", "--systemd", suite.name(), "--boots", "3", "--timeout", "1h"]);
    command.args(["--", "sh", "-c", &ready.script]);
    command.envs(ready.programs.environment()).env("JOB_PACKAGES", &ready.packages);
    command.stdout(file.try_clone()?).stderr(file);
    let status = process::status(&mut command)?;
    Ok(Finished { said: fs::read(&log).unwrap_or_default(), status, took: begin.elapsed() })
}

impl Finished {
    /// Passes on what was said.
    ///
    /// # Errors
    /// The machine, or tests that failed.
    pub(super) fn judge(&self) -> Result<()> {
        print!("{}", String::from_utf8_lossy(&self.said));
        match self.status.code() {
            Some(0) => Ok(()),
            Some(125) => bail!("the VM failed"),
            _ => bail!("some tests failed"),
        }
    }
}
