//! Where the workspace and its build results are.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process;

/// The absolute path of the workspace's root.
///
/// `cargo run` tells it at run time; the path at build time serves when the binary is run by hand.
pub(crate) fn root() -> PathBuf {
    let manifest = std::env::var("CARGO_MANIFEST_DIR")
        .unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    PathBuf::from(manifest).parent().map_or_else(|| PathBuf::from("/"), PathBuf::from)
}

/// Cargo, with the workspace's root as its directory.
///
/// It is the cargo that runs us, so that a `+toolchain` on the command line holds for all of it.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Cargo's target directory, wherever the user's configuration has put it.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["metadata", "--format-version=1", "--no-deps", "--offline"]);
    let metadata: Value = serde_json::from_str(&process::output(&mut command)?)
        .context("cargo metadata: bad JSON")?;
    let directory = metadata["target_directory"].as_str();
    Ok(directory.context("cargo metadata names no target_directory")?.into())
}

/// The path of the program that is running: for what runs xtask again, here, in a job or in a machine.
pub(crate) fn own_program() -> Result<PathBuf> {
    std::env::current_exe().context("cannot find xtask's own program")
}
