//! `cargo xtask test`: everything that must hold before a change goes in.

mod own;
pub(crate) mod retry;
mod systemd;

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::programs::{self, Executable, Profile, Programs};
use crate::vm::Suite;
use crate::{floors, process, workspace};
use own::{END_TO_END, own_command};

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
    report.step("floors", || floors::run(&floors::Args::default()));
    dependencies(&mut report);
    let next = report.step("build of the next version", programs::build_next);
    let programs = report.step("build of the programs", || programs::build(Profile::Dev));
    report.tests("unit tests", |flaky| unit_tests(&args.filter, flaky));
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

fn unit_tests(only: &[String], flaky: &mut Vec<String>) -> Result<()> {
    let mut build = workspace::cargo();
    build.args(["test", "--workspace", "--exclude", END_TO_END, "--no-run"]);
    let tests = programs::tests(&mut build)?;
    let mut judged = Ok(());
    for tests in tests.chunk_by(|one, other| one.package == other.package) {
        let run = retry::check_outcome(own_command()?.args(retry::words(tests, only)), flaky);
        judged = judged.and(run);
    }
    judged
}

fn end_to_end(report: &mut Report, args: &Args, programs: &Programs) {
    let Some(tests) = report.step("build of the end-to-end tests", || {
        let mut build = workspace::cargo();
        programs::tests(build.args(["test", "-p", END_TO_END, "--no-run"]))
    }) else {
        return;
    };
    report.tests("end-to-end tests on this machine", |flaky| {
        let words = retry::words(&tests, &args.filter);
        retry::check_outcome(own_command()?.args(words).envs(programs.environment()), flaky)
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
        report.tests("end-to-end tests in the VM", |flaky| {
            in_the_vm(tests, &args.filter, programs, flaky)
        });
        machines.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    for (name, finished) in machines {
        let name = format!("the package under {name}");
        match finished {
            None => report.skip(&name, "it could not be built"),
            Some(Err(e)) => _ = report.step(&name, || -> Result<()> { Err(e) }),
            Some(Ok(tests)) => {
                let name = format!("{name}, {} s beside the VM", tests.took.as_secs());
                report.tests(&name, |flaky| tests.check_outcome(flaky));
            }
        }
    }
}

/// The same test executables, inside a machine with all controllers, as a process of its own: it
/// takes the signals that are meant for it.
fn in_the_vm(
    mut tests: Vec<Executable>,
    only: &[String],
    programs: &Programs,
    flaky: &mut Vec<String>,
) -> Result<()> {
    // The model is arithmetic, the same everywhere; attacks are judged by the time that others wait, of
    // which a machine with one slow processor says nothing.
    tests.retain(|test| !["model", "attacks"].contains(&test.name.as_str()));
    let mut command = own_command()?;
    let words = std::iter::once(command.get_program().to_string_lossy().into_owned());
    let words = words.chain(retry::words(&tests, only)).map(|word| process::quoted(&word));
    let script = format!("{WITH_DISK}exec {}", words.collect::<Vec<_>>().join(" "));
    command.args(["vm", "--disk", "256M", "--timeout", "2h", "--", "sh", "-c", &script]);
    retry::check_outcome(command.envs(programs.environment()), flaky)
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

    /// A step that also tells what is to be said of flaky tests.
    fn tests(&mut self, name: &str, run: impl FnOnce(&mut Vec<String>) -> Result<()>) {
        let mut flaky = Vec::new();
        self.step(name, || run(&mut flaky));
        self.lines.extend(flaky.into_iter().map(|words| format!("FLAKY    {words}")));
    }

    fn skip(&mut self, name: &str, why: &str) {
        println!("\n=== {name}: skipped: {why}");
        self.lines.push(format!("skipped  {name}: {why}"));
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
    use anyhow::bail;

    use super::*;

    #[test]
    fn a_failed_step_fails_the_report_and_does_not_stop_it() {
        let mut report = Report::default();
        assert_eq!(report.step("one", || -> Result<()> { bail!("no") }), None);
        assert_eq!(report.step("two", || Ok(2)), Some(2));
        assert_eq!(report.summary(), ExitCode::FAILURE);
        assert_eq!(report.lines.len(), 2);
    }
}
