//! Debian packages that a command needs, installed when they are missing.

use std::fs::{self, File};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::{process, root, workspace};

/// Makes sure that programs are there: each a pair of (program, or the absolute path of a file) and
/// the Debian package that has it. `why` completes "... is needed".
///
/// # Errors
/// There is no apt-get, no sudo for a user who is not root, or apt-get failed.
pub(crate) fn ensure(needed: &[(&str, &str)], why: &str) -> Result<()> {
    if missing(needed).is_empty() {
        return Ok(());
    }
    let _turn = turn()?;
    let missing = missing(needed); // somebody may have installed them meanwhile
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    let programs = missing.iter().map(|(program, _)| *program).collect::<Vec<_>>().join(", ");
    if process::find("apt-get").is_none() {
        bail!(
            "{programs} is needed {why}, and there is no apt-get to install it with; \
             install what Debian calls {} and try again",
            packages.join(" ")
        );
    }
    eprintln!("xtask: installing {} ({programs} is needed {why})", packages.join(" "));
    install(&packages)?;
    match missing.iter().find(|(program, _)| process::find(program).is_none()) {
        Some((program, package)) => bail!("{package} is installed, yet {program} is not found"),
        None => Ok(()),
    }
}

fn missing<'a>(needed: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    needed.iter().copied().filter(|(program, _)| process::find(program).is_none()).collect()
}

/// One at a time: apt-get fails beside another one, and `test` starts several machines at once.
fn turn() -> Result<Flock<File>> {
    let directory = workspace::target_dir()?;
    fs::create_dir_all(&directory)?;
    let file = File::create(directory.join("apt.lock")).context("cannot wait for apt-get")?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| anyhow!("cannot wait for apt-get: {errno}"))
}

fn install(packages: &[&str]) -> Result<()> {
    // A package list may be absent (containers) or so old that its files are gone from the mirror.
    process::check(apt_get()?.arg("update")).context("cannot read the package lists")?;
    process::check(apt_get()?.args(["install", "-y", "--no-install-recommends"]).args(packages))
        .with_context(|| format!("cannot install {}", packages.join(" ")))
}

fn apt_get() -> Result<Command> {
    // Through env(1), because sudo drops the variables of its caller.
    let mut command = root::command("env", "to install packages")?;
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"]);
    command.args(["-o", "DPkg::Lock::Timeout=300"]); // whoever else installs something now
    // Our stdout belongs to the command that is run in the end.
    command.stdout(std::io::stderr());
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_installed_for_what_is_there_already() {
        ensure(&[("sh", "no-such-package"), ("/bin/sh", "nor-this-one")], "in a test")
            .expect("both are there");
    }
}
