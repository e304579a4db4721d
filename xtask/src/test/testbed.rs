//! The end-to-end tests in machines with all controllers. Each machine has one processor, so two of them share the
//! suites of a whole run: each takes the next one that nobody has taken.

use std::process::{Command, ExitStatus};

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::kept::Log;
use super::own::own_command;
use super::retry;
use crate::programs::{Executable, Programs};
use crate::{process, workspace};

/// Suites that the VM adds nothing to, and takes up to fifty times as long for. They are about certificates, messages,
/// texts, records and versions; not one of their tests asks for a feature of the kernel. The model is arithmetic, attacks
/// are judged by the latency of others, which one slow processor does not show, and Prometheus is another's program.
pub(super) const NATIVE_ONLY: [&str; 22] = [
    "attacks",
    "audit",
    "bad_input",
    "certificates",
    "check_config",
    "cli",
    "idempotency",
    "identity",
    "kept",
    "log_unavailable",
    "long_arguments",
    "messages",
    "model",
    "policy_files",
    "prometheus",
    "python_client",
    "records_altered",
    "retention",
    "run",
    "run_calls",
    "traces",
    "versions",
];

/// Prepares the machine: a directory on a real block device for jobs, and the variable that makes a test fail
/// that would be skipped for a missing feature.
const WITH_DISK: &str = "mkdir -m 1777 /mnt/disk/jobs || exit
    export JOB_TESTS_DISK=/mnt/disk/jobs JOB_TESTS_LEAVE_NOTHING_OUT=1
";

/// Suites that the machines share.
pub(super) struct Suites<'a> {
    programs: &'a Programs,
    script: String,
    /// What has been taken. It is in the target directory, which the machines can write to.
    _taken: TempDir,
}

/// What a machine beside another has said, and how it ended.
pub(super) struct Finished {
    log: Log,
    status: ExitStatus,
}

impl<'a> Suites<'a> {
    /// Of these tests, those with one of these words in their names.
    ///
    /// # Errors
    /// No directory can be made.
    pub(super) fn new(
        tests: &[Executable],
        only: &[String],
        programs: &'a Programs,
    ) -> Result<Self> {
        let taken = tempfile::Builder::new().prefix("taken-").tempdir_in(workspace::target_dir()?);
        let taken = taken.context("cannot write to the target directory")?;
        let mut words = vec![workspace::own_program()?.to_string_lossy().into_owned()];
        words.extend(retry::words(tests, only));
        words.push(format!("--taken={}", taken.path().display()));
        let words: Vec<_> = words.iter().map(|word| process::quoted(word)).collect();
        let script = format!("{WITH_DISK}exec {}", words.join(" "));
        Ok(Self { programs, script, _taken: taken })
    }

    /// Runs those that no other machine takes meanwhile.
    ///
    /// # Errors
    /// Tests have failed, or the machine.
    pub(super) fn run(&self, flaky: &mut Vec<String>) -> Result<()> {
        retry::check_outcome(&mut self.machine()?, flaky)
    }

    /// The same, and keeps what is said.
    ///
    /// # Errors
    /// The machine's process or its log cannot be made.
    pub(super) fn run_beside(&self) -> Result<Finished> {
        let log = Log::create("second")?;
        let status = log.run(&mut self.machine()?)?;
        Ok(Finished { log, status })
    }

    /// A process of its own: it takes the signals that are meant for it.
    fn machine(&self) -> Result<Command> {
        let mut command = own_command()?;
        command.args(["vm", "--disk", "256M", "--timeout", "2h", "--", "sh", "-c", &self.script]);
        command.envs(self.programs.environment());
        Ok(command)
    }
}

impl Finished {
    /// Passes on what was said, with the flaky tests.
    ///
    /// # Errors
    /// Tests have failed, or the machine.
    pub(super) fn check_outcome(&self, flaky: &mut Vec<String>) -> Result<()> {
        flaky.extend(self.log.pass_on().lines().filter_map(retry::flaky).map(str::to_owned));
        retry::judge(self.status.code())
    }
}
