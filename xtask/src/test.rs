//! `cargo xtask test`: everything that must hold before a change goes in.

mod systemd;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::programs::{self, Profile, Programs};
use crate::vm::Suite;
use crate::{process, workspace};

/// The package with the end-to-end tests.
const END_TO_END: &str = "job-tests";

/// What the tests find in the VM: a real block device, on which jobs may write, and the word that no
/// test may be left out there for something that its host lacks.
const WITH_DISK: &str = "mkdir -m 1777 /mnt/disk/jobs || exit
    export JOB_TESTS_DISK=/mnt/disk/jobs JOB_TESTS_LEAVE_NOTHING_OUT=1
";

/// The arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave out what needs a testbed VM
    #[arg(long)]
    native: bool,
    /// The package under the newest systemd that Debian has, too
    #[arg(long, conflicts_with = "native")]
    newest: bool,
    /// Only tests whose name contains one of these
    filter: Vec<String>,
}

/// Runs all steps, whether or not earlier ones failed, and ends with a summary.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut report = Report::default();
    report.step("formatting", || check_cargo(&["fmt", "--all", "--check"]));
    report.step("lints", || {
        check_cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])
    });
    dependencies(&mut report);
    let next = report.step("build of the next version", programs::build_next);
    let programs = report.step("build of the programs", || programs::build(Profile::Dev));
    report.step("unit tests", || unit_tests(&args.filter));
    match programs.filter(|_| next.is_some()) {
        Some(programs) => end_to_end(&mut report, args, &programs),
        None => report.skip("end-to-end tests", "the programs could not be built"),
    }
    Ok(report.summary())
}

fn check_cargo(arguments: &[&str]) -> Result<()> {
    process::check(workspace::cargo().args(arguments))
}

fn dependencies(report: &mut Report) {
    if process::find("cargo-deny").is_some() {
        report.step("dependencies", || check_cargo(&["deny", "check"]));
    } else {
        report.skip("dependencies", "cargo-deny is not installed (cargo install cargo-deny)");
    }
}

fn unit_tests(filter: &[String]) -> Result<()> {
    let mut command = workspace::cargo();
    command.args(["test", "--workspace", "--exclude", END_TO_END, "--"]).args(filter);
    process::check(&mut command)
}

fn end_to_end(report: &mut Report, args: &Args, programs: &Programs) {
    report.step("end-to-end tests on this machine", || {
        let mut command = workspace::cargo();
        command.args(["test", "-p", END_TO_END, "--no-fail-fast", "--"]).args(&args.filter);
        process::check(command.envs(programs.environment()))
    });
    if args.native {
        report.skip("end-to-end tests in the VM", "--native");
        report.skip("the package under systemd 252 and 257", "--native");
        return;
    }
    let mut suites = vec![(Suite::Bookworm, "systemd 252"), (Suite::Trixie, "systemd 257")];
    if args.newest {
        suites.push((Suite::Forky, "Debian's newest systemd"));
    }
    let package = report.step("build of the package", || systemd::prepare(&args.filter, programs));
    // One after the other, and beside the VM: each machine has one processor.
    let with_systemd = || {
        let run = |(suite, name)| (name, package.as_ref().map(|it| systemd::run(suite, it)));
        suites.into_iter().map(run).collect::<Vec<_>>()
    };
    let machines = thread::scope(|scope| {
        let machines = scope.spawn(with_systemd);
        report.step("end-to-end tests in the VM", || in_the_vm(&args.filter, programs));
        machines.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    for (name, finished) in machines {
        let name = format!("the package under {name}");
        match finished {
            None => report.skip(&name, "it could not be built"),
            Some(Err(e)) => _ = report.step(&name, || -> Result<()> { Err(e) }),
            Some(Ok(tests)) => {
                let name = format!("{name}, {} s beside the VM", tests.took.as_secs());
                report.step(&name, || tests.judge());
            }
        }
    }
}

/// The same test executables, inside a machine with all controllers, as a process of its own: it
/// takes the signals that are meant for it.
fn in_the_vm(filter: &[String], programs: &Programs) -> Result<()> {
    let mut build = workspace::cargo();
    build.args(["test", "-p", END_TO_END, "--no-run"]);
    let mut tests = programs::executables(&mut build, "test")?;
    tests.remove("model"); // which is arithmetic, the same everywhere
    let mut tests: Vec<PathBuf> = tests.into_values().collect();
    tests.sort();
    if tests.is_empty() {
        bail!("{END_TO_END} has no test executables");
    }
    let own = std::env::current_exe().context("cannot find xtask's own program")?;
    let mut command = Command::new(own);
    let script = format!("{WITH_DISK}{}", run_each(&tests, filter));
    command.args(["vm", "--disk", "256M", "--timeout", "2h", "--", "sh", "-c", &script]);
    match process::status(command.envs(programs.environment()))?.code() {
        Some(0) => Ok(()),
        Some(125) => bail!("the VM failed"),
        _ => bail!("some tests failed"),
    }
}

/// A script that runs all executables in the directory where cargo would run them.
fn run_each(tests: &[PathBuf], filter: &[String]) -> String {
    let filter: String = filter.iter().map(|word| format!(" {}", process::quoted(word))).collect();
    let mut script = "cd tests; export CARGO_MANIFEST_DIR=$PWD; status=0\n".to_owned();
    for test in tests {
        let test = process::quoted(&test.to_string_lossy());
        // Infallible: a String grows.
        let _ = writeln!(script, "echo Running {test}; {test}{filter} || status=1");
    }
    script + "exit $status"
}

/// What became of each step.
#[derive(Default)]
struct Report {
    lines: Vec<String>,
    failed: usize,
}

impl Report {
    fn step<T>(&mut self, name: &str, run: impl FnOnce() -> Result<T>) -> Option<T> {
        println!("\n=== {name}");
        let started = Instant::now();
        let result = run();
        let took = Duration::from_millis(100 * (started.elapsed().as_millis() as u64 / 100));
        let took = humantime::format_duration(took);
        match result {
            Ok(value) => {
                self.lines.push(format!("ok       {name} ({took})"));
                Some(value)
            }
            Err(error) => {
                println!("=== {name} failed: {error:#}");
                self.failed += 1;
                self.lines.push(format!("FAILED   {name} ({took}): {error:#}"));
                None
            }
        }
    }

    fn skip(&mut self, name: &str, why: &str) {
        println!("\n=== {name}: left out: {why}");
        self.lines.push(format!("left out {name}: {why}"));
    }

    fn summary(&self) -> ExitCode {
        println!("\n=== summary");
        for line in &self.lines {
            println!("{line}");
        }
        if self.failed > 0 {
            println!("{} of {} steps failed", self.failed, self.lines.len());
            return ExitCode::FAILURE;
        }
        ExitCode::SUCCESS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failing_executable_fails_the_run_and_the_others_still_run() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(directory.path().join("tests")).expect("tests");
        let script = run_each(&["/bin/false".into(), "/bin/echo".into()], &["a b".into()]);
        let output = Command::new("sh")
            .args(["-c", &script])
            .current_dir(directory.path())
            .output()
            .expect("sh runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(text, "Running /bin/false\nRunning /bin/echo\na b\n");
        assert_eq!(output.status.code(), Some(1));
    }

    #[test]
    fn a_failed_step_fails_the_report_and_does_not_stop_it() {
        let mut report = Report::default();
        assert_eq!(report.step("one", || -> Result<()> { bail!("no") }), None);
        assert_eq!(report.step("two", || Ok(2)), Some(2));
        assert_eq!(report.summary(), ExitCode::FAILURE);
        assert_eq!(report.lines.len(), 2);
    }
}
