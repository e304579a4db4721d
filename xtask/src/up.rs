//! `cargo xtask up`: a broker that stays, and how to use it.

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::process::quoted;
use crate::programs::{self, Profile};
use crate::site::{IDENTITIES, Place, Site};

/// The arguments of `cargo xtask up`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the broker keeps everything [default: a fresh directory for temporary files]
    #[arg(long, value_name = "D")]
    dir: Option<PathBuf>,
    /// Where it listens; kept across restarts [default: a free port of 127.0.0.1]
    #[arg(long, value_name = "HOST:PORT")]
    addr: Option<String>,
    /// Use programs that are optimised as for a release (slow to build)
    #[arg(long)]
    release: bool,
}

/// Returns when the broker answers. One that runs in that directory already is left as it is.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let found = args.dir.as_deref().map(Site::find).transpose()?.flatten();
    let site = match found {
        Some(site) => {
            check_as_made(args, &site)?;
            if let Some(pid) = site.broker_pid() {
                println!("A broker is running there already: pid {pid}, {}.", site.addr());
                usage(&site);
                return Ok(ExitCode::SUCCESS);
            }
            // Its jobs may live: whatever goes wrong, nothing is removed.
            site.start(&programs::build(site.profile())?)?;
            site
        }
        None => make(args)?,
    };
    let pid = site.broker_pid().unwrap_or_default();
    println!("The broker answers: pid {pid}, {}, {}.", site.addr(), site.dir().display());
    usage(&site);
    Ok(ExitCode::SUCCESS)
}

/// What cannot be changed once a site is made.
fn check_as_made(args: &Args, site: &Site) -> Result<()> {
    let dir = site.dir().display();
    if args.addr.as_ref().is_some_and(|addr| *addr != site.addr().to_string()) {
        let addr = site.addr();
        bail!("{dir} was made for {addr}, and so was its certificate: use another --dir");
    }
    if args.release && site.profile() != Profile::Release {
        bail!("{dir} was made without --release: use another --dir");
    }
    Ok(())
}

/// A new site with its broker, or nothing.
fn make(args: &Args) -> Result<Site> {
    let profile = if args.release { Profile::Release } else { Profile::Dev };
    let programs = programs::build(profile)?;
    let parent = env::temp_dir();
    let place = args.dir.as_deref().map_or(Place::In(&parent), Place::At);
    let site = Site::create(place, args.addr.as_deref(), profile, &programs)?;
    if let Err(error) = site.start(&programs) {
        // The error that led here is the one to report; it has the broker's words.
        let _ = site.tear_down().and_then(|()| site.remove());
        return Err(error);
    }
    Ok(site)
}

/// The lines to type.
fn usage(site: &Site) {
    let dir = quoted(&site.dir().display().to_string());
    println!("\nBe somebody ({}):", IDENTITIES.join(", "));
    println!("    . {dir}/user-a.env\n");
    println!("Then run commands:");
    println!("    jobctl run -- sh -c 'echo out; echo err >&2; exit 7'");
    println!("    jobctl start --name nap -- sleep 600");
    println!("    jobctl ps");
    println!("    jobctl stop nap\n");
    println!(
        "The broker's log is {dir}/broker.log. To start it anew over its jobs, and to end it:"
    );
    println!("    cargo xtask restart --dir {dir} [--kill]");
    println!("    cargo xtask down --dir {dir}");
}
