//! cargo-deny: licences, bans and sources always, advisories where their database can be reached. It must not pass in
//! silence what it could not judge.

use std::process::{Command, Stdio};

use anyhow::Result;

use super::tools::Tool;
use crate::{process, workspace};

const CARGO_DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2" };

/// What was judged.
pub(crate) enum Judged {
    /// All of it.
    All,
    /// All but the advisories: their database was not reachable.
    WithoutAdvisories,
}

/// Judges the dependencies by `deny.toml`.
///
/// # Errors
/// A dependency that `deny.toml` forbids, or with an advisory; cargo-deny cannot be built.
pub(crate) fn check() -> Result<Judged> {
    let program = CARGO_DENY.program()?;
    let deny = |offline: bool, arguments: &[&str]| {
        let mut deny = Command::new(&program);
        deny.current_dir(workspace::root()).args(["--log-level", "error"]);
        deny.args(offline.then_some("--offline")).args(arguments);
        deny
    };
    process::check(&mut deny(false, &["check", "bans", "licenses", "sources"]))?;
    let mut fetch = deny(false, &["fetch", "db"]);
    fetch.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if !fetch.status()?.success() {
        return Ok(Judged::WithoutAdvisories);
    }
    process::check(&mut deny(true, &["check", "advisories"]))?;
    Ok(Judged::All)
}
