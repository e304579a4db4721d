//! Running programs as root: directly where we are root, else through sudo.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Result, bail};

use crate::process;

/// A command that runs as root. `why` completes "root is needed ...".
///
/// # Errors
/// We are not root, and there is no sudo.
pub(crate) fn command(program: &str, why: &str) -> Result<Command> {
    if nix::unistd::geteuid().is_root() {
        let mut command = Command::new(program);
        // Ctrl-C is for us: what makes, ends or cleans up something is to come to its end. (sudo
        // must stay in the terminal's group, or it could not ask for a password.)
        command.process_group(0);
        return Ok(command);
    }
    if process::find("sudo").is_none() {
        bail!("root is needed {why}: run this as root, or install sudo");
    }
    let mut sudo = Command::new("sudo");
    sudo.args(["-p", &format!("xtask: root is needed {why}; password for %u: "), "--", program]);
    Ok(sudo)
}

/// A POSIX shell script, run as root with `arguments` as $1 and so on.
///
/// # Errors
/// As [`command`].
pub(crate) fn script(text: &str, arguments: &[&str], why: &str) -> Result<Command> {
    let mut command = command("sh", why)?;
    command.args(["-c", text, "sh"]).args(arguments);
    Ok(command)
}
