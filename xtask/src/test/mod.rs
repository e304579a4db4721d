//! `cargo xtask test`: everything that must hold before a change goes in.

mod kept;
mod own;
pub(crate) mod retry;
mod select;
mod systemd;
mod testbed;

use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::programs::{self, Executable, Profile, Programs};
use crate::supply::deny::{self, Judged};
use crate::vm::Suite;
use crate::{floors, packages, process, tidy, workspace};
use own::{END_TO_END, own_command};
use select::{Chosen, Kind};

/// Suites whose jobs are run in another profile, too: all others are about the profile that they are of, or take long.
const OTHER_PROFILES: [(&str, &[&str]); 2] = [
    (
        "strict",
        &["lifecycle", "output", "pause", "recovery_broker", "recovery_shim", "random_kills"],
    ),
    ("host", &["lifecycle", "output"]),
];
/// The suite that runs [`TOOLS`].
const WITH_TOOLS: &str = "escape";
/// What jobs run in a test of what people run in jobs; node, java and go where they are.
const TOOLS: [(&str, &str); 4] = [
    ("/usr/bin/gcc", "gcc"),
    ("/usr/bin/git", "git"),
    ("/usr/bin/python3", "python3"),
    ("/usr/bin/strace", "strace"),
];
/// The suite in which the real Prometheus scrapes the broker.
const PROMETHEUS: &str = "prometheus";

/// The arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Skip what needs a testbed VM
    #[arg(long)]
    native: bool,
    /// The package under the newest systemd that Debian has, too
    #[arg(long, conflicts_with = "native")]
    newest: bool,
    /// Only in the testbed VM
    #[arg(long, conflicts_with = "native")]
    vm: bool,
    /// Only these suites (`output`, `jobctl`), or tests with one of these in their names
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

/// Runs all steps, or those that run the tests of these names; a failed step does not keep others from
/// being run. Ends with a summary.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let suites = select::suites(&workspace::root())?;
    let chosen = select::choose(&args.names, &suites)?;
    let mut report = Report::default();
    if args.names.is_empty() {
        everything(&mut report, args);
    } else {
        selected(&mut report, args, &chosen);
    }
    Ok(report.summary())
}

fn everything(report: &mut Report, args: &Args) {
    if !args.vm {
        report.step("formatting", || check_cargo(&["fmt", "--all", "--check"]));
        report.step("lints", tidy::lints);
        report.step("documentation", tidy::documentation);
        report.step("floors", || floors::run(&floors::Args::default()));
        dependencies(report);
    }
    let next = report.step("build of the next version", programs::build_next);
    let programs = report.step("build of the programs", || programs::build(Profile::Dev));
    if !args.vm {
        tools(report);
        report.tests("unit tests", unit_tests);
        report.step("doc tests", || doc_tests(programs.as_ref()));
    }
    match programs.filter(|_| next.is_some()) {
        Some(programs) => end_to_end(report, args, &programs),
        None => report.skip("end-to-end tests", "the programs could not be built"),
    }
}

/// Builds and runs no more than these suites.
fn selected(report: &mut Report, args: &Args, chosen: &Chosen) {
    for (suite, filter) in chosen {
        if let Kind::Package(manifest) = &suite.kind {
            report.tests(&suite.name, |flaky| package_tests(manifest, filter, flaky));
        }
    }
    let mut end_to_end = chosen.iter().filter(|(suite, _)| suite.kind == Kind::EndToEnd).peekable();
    let mut systemd = chosen.iter().filter(|(suite, _)| suite.kind == Kind::Systemd).peekable();
    if end_to_end.peek().is_none() && systemd.peek().is_none() {
        return;
    }
    if chosen.keys().any(|suite| suite.needs_next)
        && report.step("build of the next version", programs::build_next).is_none()
    {
        return;
    }
    let built = report.step("build of the programs", || programs::build(Profile::Dev));
    let Some(programs) = built else { return };
    for (suite, filter) in end_to_end {
        suite_end_to_end(report, args, &programs, &suite.name, filter);
    }
    if systemd.peek().is_some() {
        let filter: Vec<String> = systemd.flat_map(|(_, filter)| filter.clone()).collect();
        under_systemd(report, args, &programs, &filter);
    }
}

fn suite_end_to_end(
    report: &mut Report,
    args: &Args,
    programs: &Programs,
    suite: &str,
    filter: &[String],
) {
    let Some(tests) = report.step(&format!("build of {suite}"), || {
        let mut build = workspace::cargo();
        programs::tests(build.args(["test", "-p", END_TO_END, "--test", suite, "--no-run"]))
    }) else {
        return;
    };
    if !args.vm {
        if suite == PROMETHEUS {
            prometheus(report);
        }
        if suite == WITH_TOOLS {
            tools(report);
        }
        report.tests(&format!("{suite} on this machine"), |flaky| {
            on_this_machine(&tests, filter, programs, flaky)
        });
    }
    if args.native || testbed::NATIVE_ONLY.contains(&suite) {
        report.skip(&format!("{suite} in the VM"), if args.native { "--native" } else { "no use" });
        return;
    }
    report.tests(&format!("{suite} in the VM"), |flaky| {
        testbed::Suites::new(&tests, filter, programs)?.run(flaky)
    });
}

fn check_cargo(arguments: &[&str]) -> Result<()> {
    process::check(workspace::cargo().args(arguments))
}

/// Those of job-sandbox run commands where they find the shim.
fn doc_tests(programs: Option<&Programs>) -> Result<()> {
    let mut tests = workspace::cargo();
    tests.args(["test", "--quiet", "--workspace", "--doc"]);
    process::check(tests.envs(programs.map(|programs| ("JOB_SANDBOX_SHIM", &programs.shim))))
}

fn dependencies(report: &mut Report) {
    let judged = report.step("dependencies", deny::check);
    if let Some(Judged::WithoutAdvisories) = judged {
        report.skip("advisories", "their database cannot be reached, and no copy is here");
    }
}

fn unit_tests(flaky: &mut Vec<String>) -> Result<()> {
    let mut build = workspace::cargo();
    build.args(["test", "--workspace", "--exclude", END_TO_END, "--no-run"]);
    run_packages(&programs::tests(&mut build)?, &[], flaky)
}

fn package_tests(manifest: &Path, filter: &[String], flaky: &mut Vec<String>) -> Result<()> {
    let mut build = workspace::cargo();
    build.arg("test").arg("--manifest-path").arg(manifest).arg("--no-run");
    run_packages(&programs::tests(&mut build)?, filter, flaky)
}

fn run_packages(tests: &[Executable], filter: &[String], flaky: &mut Vec<String>) -> Result<()> {
    let mut result = Ok(());
    for tests in tests.chunk_by(|one, other| one.package == other.package) {
        let words = retry::words(tests, filter);
        result = result.and(retry::check_outcome(own_command()?.args(words), flaky));
    }
    result
}

fn end_to_end(report: &mut Report, args: &Args, programs: &Programs) {
    let Some(mut tests) = report.step("build of the end-to-end tests", || {
        let mut build = workspace::cargo();
        programs::tests(build.args(["test", "-p", END_TO_END, "--no-run"]))
    }) else {
        return;
    };
    if !args.vm {
        prometheus(report);
        report.tests("end-to-end tests on this machine", |flaky| {
            on_this_machine(&tests, &[], programs, flaky)
        });
        in_other_profiles(report, &tests, programs);
    }
    if args.native {
        report.skip("end-to-end tests in the VM", "--native");
        report.skip("the package under systemd 252 and 257", "--native");
        return;
    }
    let package = report.step("build of the package", || systemd::prepare(&[], programs));
    tests.retain(|test| !testbed::NATIVE_ONLY.contains(&test.name.as_str()));
    let Some(suites) =
        report.step("list of suites", || testbed::Suites::new(&tests, &[], programs))
    else {
        return;
    };
    // Each machine has one processor. Beside the first those with systemd run, one after the other,
    // and then one more that helps the first.
    let (machines, second) = thread::scope(|scope| {
        let beside = scope.spawn(|| (in_machines(args, package.as_ref()), suites.run_beside()));
        report.tests("end-to-end tests in the VM", |flaky| suites.run(flaky));
        beside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    report.tests("end-to-end tests in a second VM", |flaky| second?.check_outcome(flaky));
    report.machines(machines);
}

fn in_other_profiles(report: &mut Report, tests: &[Executable], programs: &Programs) {
    for (profile, suites) in OTHER_PROFILES {
        for test in tests.iter().filter(|test| suites.contains(&test.name.as_str())) {
            let name = format!("{} of {profile} jobs on this machine", test.name);
            report.tests(&name, |flaky| {
                let words = retry::words(std::slice::from_ref(test), &[]);
                let mut command = own_command()?;
                let command = command.args(words).envs(programs.environment());
                retry::check_outcome(command.env("JOB_TESTS_ISOLATION", profile), flaky)
            });
        }
    }
}

/// Their test says which are left out.
fn tools(report: &mut Report) {
    if let Err(error) = packages::ensure(&TOOLS, "to run in jobs of a test") {
        report.skip("some of what people run in jobs", &format!("{error:#}"));
    }
}

/// Without it its suite says that it is left out.
fn prometheus(report: &mut Report) {
    let needed = [("prometheus", "prometheus"), ("promtool", "prometheus")];
    if let Err(error) = packages::ensure(&needed, "to scrape the broker in a test") {
        report.skip(PROMETHEUS, &format!("{error:#}"));
    }
}

fn under_systemd(report: &mut Report, args: &Args, programs: &Programs, filter: &[String]) {
    if args.native {
        report.skip("the package under systemd 252 and 257", "--native");
        return;
    }
    let package = report.step("build of the package", || systemd::prepare(filter, programs));
    report.machines(in_machines(args, package.as_ref()));
}

/// What became of the package's tests in one machine; none where there was no package.
type InMachine = (&'static str, Option<Result<systemd::Finished>>);

fn in_machines(args: &Args, package: Option<&systemd::Ready<'_>>) -> Vec<InMachine> {
    let mut suites = vec![(Suite::Bookworm, "systemd 252"), (Suite::Trixie, "systemd 257")];
    if args.newest {
        suites.push((Suite::Forky, "Debian's newest systemd"));
    }
    let run = |(suite, name)| (name, package.map(|package| systemd::run(suite, package)));
    suites.into_iter().map(run).collect()
}

fn on_this_machine(
    tests: &[Executable],
    filter: &[String],
    programs: &Programs,
    flaky: &mut Vec<String>,
) -> Result<()> {
    let words = retry::words(tests, filter);
    retry::check_outcome(own_command()?.args(words).envs(programs.environment()), flaky)
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

    /// A step that also reports flaky tests.
    fn tests(&mut self, name: &str, run: impl FnOnce(&mut Vec<String>) -> Result<()>) {
        let mut flaky = Vec::new();
        self.step(name, || run(&mut flaky));
        self.lines.extend(flaky.into_iter().map(|words| format!("FLAKY    {words}")));
    }

    /// Reports the tests in machines with systemd, whose output was kept.
    fn machines(&mut self, machines: Vec<InMachine>) {
        for (name, finished) in machines {
            let name = format!("the package under {name}");
            match finished {
                None => self.skip(&name, "it could not be built"),
                Some(Err(error)) => _ = self.step(&name, || -> Result<()> { Err(error) }),
                Some(Ok(tests)) => {
                    let name = format!("{name}, in {} s", tests.took.as_secs());
                    self.tests(&name, |flaky| tests.check_outcome(flaky));
                }
            }
        }
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
