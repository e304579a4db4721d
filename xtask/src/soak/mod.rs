//! `cargo xtask soak`: kill -9 of broker and shims at random moments, for as long as one likes; or
//! all attacks in their long form.

mod attacks;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::programs::{self, Profile};
use crate::{process, workspace};

/// The arguments of `cargo xtask soak`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long
    #[arg(long, value_name = "N", default_value_t = 10)]
    minutes: u64,
    /// Until the broker has been killed so often, instead
    #[arg(long, value_name = "N", conflicts_with = "minutes")]
    kills: Option<u64>,
    /// Begin with this seed, as a failed run has printed it
    #[arg(long)]
    seed: Option<u64>,
    /// Attacks instead, those whose test's name contains this, and what each cost other clients
    #[arg(long, value_name = "NAME", num_args = 0..=1, conflicts_with_all = ["minutes", "kills", "seed"])]
    attacks: Option<Option<String>>,
    /// Write the table of the attacks to this file as well
    #[arg(long, value_name = "FILE", requires = "attacks")]
    json: Option<PathBuf>,
}

/// Runs the one or the other.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.attacks {
        Some(only) => attacks::run(only.as_deref(), args.json.as_deref()),
        None => kills(args),
    }
}

/// Builds the programs and runs `tests/tests/random_kills.rs`; ends at the first thing that is wrong,
/// else with a line of what was done and checked.
fn kills(args: &Args) -> Result<ExitCode> {
    let programs = programs::build(Profile::Dev)?;
    let mut command = workspace::cargo();
    command.args(["test", "-p", "job-tests", "--test", "random_kills", "--", "--nocapture"]);
    command.envs(programs.environment());
    match args.kills {
        Some(kills) => command.env("JOB_TESTS_KILLS", kills.to_string()),
        None => command.env("JOB_TESTS_SECONDS", (args.minutes * 60).to_string()),
    };
    command.envs(args.seed.map(|seed| ("JOB_TESTS_SEED", seed.to_string())));
    process::check(&mut command)?;
    Ok(ExitCode::SUCCESS)
}
