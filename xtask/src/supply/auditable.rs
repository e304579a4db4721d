//! cargo-auditable: a release says in itself (section `.dep-v0`) which crates it was made of, for scanners of installed
//! programs. The shim goes without: every job holds one.

use std::process::Command;

use anyhow::Result;

use super::tools::Tool;
use crate::workspace;

const CARGO_AUDITABLE: Tool = Tool { name: "cargo-auditable", version: "0.7.7" };

/// Takes the place of `cargo`; `build` and its arguments follow.
///
/// # Errors
/// It cannot be installed.
pub(crate) fn cargo() -> Result<Command> {
    let mut cargo = Command::new(CARGO_AUDITABLE.program()?);
    cargo.current_dir(workspace::root()).arg("auditable");
    Ok(cargo)
}
