//! `cargo xtask restart`: another broker over the same jobs.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::programs;
use crate::site::{Ending, Site};

/// The arguments of `cargo xtask restart`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The directory that `up` printed
    #[arg(long, value_name = "D")]
    dir: PathBuf,
    /// End the broker by SIGKILL instead of SIGTERM
    #[arg(long)]
    kill: bool,
}

/// The programs are built anew, so that a changed broker takes the jobs over.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let site = Site::open(&args.dir)?;
    let programs = programs::build(site.profile())?;
    match site.broker_pid() {
        Some(_) => site.end(if args.kill { Ending::Killed } else { Ending::Asked })?,
        None => println!("No broker was running there."),
    }
    site.start(&programs)?;
    let pid = site.broker_pid().unwrap_or_default();
    println!("The broker answers again: pid {pid}, {}.", site.addr());
    Ok(ExitCode::SUCCESS)
}
