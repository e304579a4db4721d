//! `cargo xtask down`: the end of what `up` began.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::site::Site;

/// The arguments of `cargo xtask down`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The directory that `up` printed
    #[arg(long, value_name = "D")]
    dir: PathBuf,
}

/// Jobs first, then the broker, the cgroups and, if `up` made it, the directory.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let site = Site::open(&args.dir)?;
    site.tear_down()?;
    site.remove()?;
    let dir = site.dir().display();
    if site.is_temporary() {
        println!("Jobs and broker have ended; {dir} is removed.");
    } else {
        println!("Jobs and broker have ended. {dir} stays: it was there before.");
    }
    Ok(ExitCode::SUCCESS)
}
