//! `cargo xtask soak`: kill -9 of broker and shims at random moments, for as long as one likes.

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
}

/// Builds the programs and runs `tests/tests/random_kills.rs`; ends at the first thing that is wrong,
/// else with a line of what was done and checked.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
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
