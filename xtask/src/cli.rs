//! The command line, and which file does what.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{
    bench, demo, down, floors, fuzz, interrupt, package, programs, restart, soak, test, tidy, up,
    vm,
};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own commands", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the system at work, on a broker of its own, and leave nothing behind
    Demo(demo::Args),
    /// Leave a broker running, with throw-away certificates, and say how to use it
    Up(up::Args),
    /// End a broker that `up` left running and start it anew over its jobs
    Restart(restart::Args),
    /// End a broker that `up` left running, and its jobs
    Down(down::Args),
    /// Measure speed and size side by side with ssh and with the bare kernel
    Bench(bench::Args),
    /// What `bench` has run as a job
    #[command(hide = true)]
    BenchWriter(bench::writer::Args),
    /// What `bench` has run in the testbed VM
    #[command(hide = true)]
    BenchLimits(bench::limits::Args),
    /// What `demo` has run in the testbed VM
    #[command(hide = true)]
    DemoLimits(demo::in_vm::Args),
    /// Build job-broker, jobctl, job-certs and the static job-shim, and say where they are
    Build(programs::Args),
    /// Make the Debian package
    Package(package::Args),
    /// Which module uses which: no circles, and the order of floors.toml
    Floors(floors::Args),
    /// Format, make generated pages anew, and judge floors, lints, documentation and dependencies
    Tidy(tidy::Args),
    /// Formatting, lints, unit tests, end-to-end tests here and in the testbed VMs, the package
    Test(test::Args),
    /// What `test` has run here and in the testbed VM
    #[command(hide = true)]
    TestRun(test::retry::Args),
    /// Kill broker and shims at random moments under load, for a long time; or make all attacks
    Soak(soak::Args),
    /// Give bytes of any kind to all that reads them, for a long time; keep the inputs that break something
    Fuzz(fuzz::Args),
    /// Run a command as root in a throw-away VM with full cgroup v2, and exit as it did
    Vm(vm::Args),
}

/// Parses the command line and runs the command; an error is printed with its causes and exits 1, or
/// 128+n when signal n is what stopped us.
pub(crate) fn dispatch() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::Up(args) => up::run(&args),
        Command::Restart(args) => restart::run(&args),
        Command::Down(args) => down::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::BenchWriter(args) => bench::writer::run(&args),
        Command::BenchLimits(args) => bench::limits::run(&args),
        Command::DemoLimits(args) => demo::in_vm::run(&args),
        Command::Build(args) => programs::run(&args),
        Command::Package(args) => package::run(&args),
        Command::Floors(args) => floors::run(&args),
        Command::Tidy(args) => tidy::run(&args),
        Command::Test(args) => test::run(&args),
        Command::TestRun(args) => test::retry::run(&args),
        Command::Soak(args) => soak::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        // Like `docker run`: 125 is the VM's own failure, everything else is the command's status.
        Command::Vm(args) => return vm::run(&args).unwrap_or_else(|e| fail(&e, 125)),
    };
    result.unwrap_or_else(|error| fail(&error, interrupt::status().unwrap_or(1)))
}

fn fail(error: &anyhow::Error, status: u8) -> ExitCode {
    eprintln!("xtask: {error:#}");
    ExitCode::from(status)
}
