//! `cargo xtask tidy`: what a change needs before it is committed, in a minute: format and generated
//! pages are put right; names in documents, the order of modules, lints, rustdoc and dependencies are
//! checked.

use std::process::ExitCode;

use anyhow::Result;

use crate::supply::deny::{self, Judged};
use crate::{floors, process, workspace};

/// The arguments of `cargo xtask tidy`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Change no file: fail where one would be changed
    #[arg(long)]
    check: bool,
    /// Only what takes seconds: change no file, judge format and floors
    #[arg(long)]
    quick: bool,
}

/// Ends at the first thing that is wrong, with cargo's own words on stderr.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut format = workspace::cargo();
    format.args(["fmt", "--all"]).args((args.check || args.quick).then_some("--check"));
    process::check(&mut format)?;
    floors::run(&floors::Args::default())?;
    if args.quick {
        return Ok(ExitCode::SUCCESS);
    }
    if !args.check {
        let mut pages = workspace::cargo();
        process::check(pages.args(["run", "-q", "-p", "job-manuals", "--", "--pages"]))?;
    }
    // The pages are up to date, and what documents name is there.
    process::check(workspace::cargo().args(["test", "-q", "-p", "job-manuals"]))?;
    lints()?;
    documentation()?;
    if let Judged::WithoutAdvisories = deny::check()? {
        eprintln!("xtask: advisories not judged: their database cannot be reached");
    }
    Ok(ExitCode::SUCCESS)
}

/// What clippy finds is an error here.
///
/// # Errors
/// It found something.
pub(crate) fn lints() -> Result<()> {
    let arguments = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    process::check(workspace::cargo().args(arguments))
}

/// So is what rustdoc finds, such as a link that leads nowhere.
///
/// # Errors
/// It found something.
pub(crate) fn documentation() -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args(["doc", "--workspace", "--no-deps", "--document-private-items"]);
    process::check(cargo.env("RUSTDOCFLAGS", "-D warnings"))
}
