//! `cargo xtask vm`: runs a command as root in a temporary virtual machine. The command must not change the host
//! outside cargo's target directory.
//!
//! The machine is user-mode Linux, a kernel that runs as an ordinary process. It has what hosts and containers often
//! lack: cgroup v2 alone with all its controllers, a disk of its own and, with `--systemd`, systemd as process 1. The
//! command's file systems:
//!
//! | where | what |
//! |---|---|
//! | the workspace, which is also the current directory | the host's, at the same path; writes fail or are discarded
//! |
//! | cargo's target directory | the host's, writable: for files that must outlive the machine |
//! | all other files | without `--systemd` the host's tree, with it a minimal Debian; writes are discarded |
//! | `/tmp`, `/var/lib/job-broker` | a real ext4 on `/dev/ubda` (16 GiB); in trixie /tmp is a tmpfs |
//! | `/mnt/disk` | with `--disk SIZE`, an empty ext4 of that size on `/dev/ubdb` |
//!
//! With `--boots N` a machine that goes down while its command runs boots again, with the same disks and the same
//! command: for tests of a host crash.
//!
//! stdin is /dev/null, `JOB_TESTBED` is `uml` or the suite's name, and the machine has one processor. A program that
//! was linked on a host newer than the suite needs a newer glibc than the suite has.

mod image;
mod machine;
mod relay;
mod rundir;
mod suite;

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::programs::Programs;
use crate::size::Size;
use crate::{packages, process, workspace};
use machine::{Machine, Root};
use rundir::RunDir;
pub(crate) use suite::Suite;

/// The arguments of `cargo xtask vm`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Boot a minimal Debian of this suite with systemd, instead of the host's own tree
    #[arg(long, value_name = "SUITE")]
    systemd: Option<Suite>,
    /// Attach an empty ext4 of this size, mounted on /mnt/disk
    #[arg(long)]
    disk: Option<Size>,
    /// Boot up to this often, with the same disks: whenever the machine goes down while the command
    /// runs
    #[arg(long, value_name = "N", default_value_t = 1, requires = "systemd")]
    boots: u32,
    /// The machine's memory
    #[arg(long, default_value = "2G")]
    mem: Size,
    /// End the machine after this time: it exits 125
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// What to run, as root, in the workspace's root
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// `cargo xtask vm`: exits with the command's status.
///
/// # Errors
/// The machine cannot be started, crashed, or exceeded its timeout.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    prepare_host()?;
    let target = workspace::target_dir()?;
    check_path(&target)?;
    check_path(&workspace::root())?;
    let dir = RunDir::create(&target)?;
    let root = match args.systemd {
        None => Root::Host,
        Some(suite) => Root::Image(image::ensure(suite, &target)?),
    };
    dir.write("command.sh", &command_script(args))?;
    let disk = args.disk.map(Into::into);
    let machine = Machine { dir: &dir, target: &target, root, mem: args.mem, disk };
    let deadline = Instant::now() + args.timeout;
    machine.make_disks()?;
    for _ in 0..args.boots {
        let left = deadline.saturating_duration_since(Instant::now());
        if let Some(status) = machine.boot(left)? {
            return Ok(ExitCode::from(status));
        }
    }
    bail!("the VM went down before its command ended{}", machine.log_tail())
}

/// The mount point of [`rerun_in_vm`]'s disk.
pub(crate) const DISK: &str = "/mnt/disk";

/// Reruns xtask with these arguments in a machine with a disk, for features that the host lacks. The rerun finds the
/// programs by [`Programs::given`].
///
/// # Errors
/// The machine cannot run on this host.
pub(crate) fn rerun_in_vm(programs: &Programs, words: &[&str]) -> Result<Command> {
    check_processor()?;
    let own = workspace::own_program()?;
    let mut command = Command::new(&own);
    // Far more than any rerun takes.
    command.args(["vm", "--disk", "256M", "--timeout", "10m", "--"]).arg(own).args(words);
    command.envs(programs.environment());
    Ok(command)
}

fn check_processor() -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        bail!("user-mode Linux exists for x86-64 alone; the VM cannot run on this machine");
    }
    Ok(())
}

/// Checks the programs that a machine needs on the host.
fn prepare_host() -> Result<()> {
    check_processor()?;
    let needed = [
        ("linux.uml", "user-mode-linux"),
        ("mkfs.ext4", "e2fsprogs"),
        ("insmod", "kmod"),
        ("ip", "iproute2"),
    ];
    packages::ensure(&needed, "for the testbed VM")
}

/// Paths go into the kernel's command line and into mount options.
fn check_path(path: &Path) -> Result<()> {
    let is_plain = |c: char| !c.is_whitespace() && !",\"'\\".contains(c);
    match path.to_str() {
        Some(text) if text.chars().all(is_plain) => Ok(()),
        _ => bail!(
            "{}: the VM cannot be told of a path with spaces, commas, quotes or backslashes; \
             use a clone elsewhere",
            path.display()
        ),
    }
}

/// The shell script that executes the command in its environment.
fn command_script(args: &Args) -> String {
    let mut lines = vec!["echo 0 >/proc/self/oom_score_adj".to_owned()];
    for (name, value) in environment(args.systemd) {
        lines.push(format!("export {name}={}", process::quoted(&value)));
    }
    lines.push(format!("cd {}", process::quoted(&workspace::root().to_string_lossy())));
    let words: Vec<_> = args.command.iter().map(|word| process::quoted(word)).collect();
    lines.push(format!("exec {}\n", words.join(" ")));
    lines.join("\n")
}

/// The host's tree contains the caller's programs, so the command keeps PATH and HOME.
fn environment(systemd: Option<Suite>) -> Vec<(String, String)> {
    let everywhere = ["JOB", "RUST", "CARGO_TERM", "AWS_LC", "LANG", "LC_", "TERM"];
    let host_only = ["PATH", "HOME", "CARGO", "PYENV", "VIRTUAL_ENV"];
    let passes = |name: &str| {
        let begins = |prefix: &&str| name.starts_with(prefix);
        // cargo's other variables describe xtask itself.
        let of_xtask = name.starts_with("CARGO_PKG") || name.starts_with("CARGO_MANIFEST");
        let on_host = systemd.is_none() && host_only.iter().any(begins);
        (on_host && !of_xtask) || everywhere.iter().any(begins)
    };
    let text = |(name, value): (OsString, OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    let mut variables: Vec<_> =
        std::env::vars_os().filter_map(text).filter(|(name, _)| passes(name)).collect();
    if systemd.is_some() {
        variables.push(("HOME".into(), "/root".into()));
    }
    variables.push(("USER".into(), "root".into()));
    variables.push(("LOGNAME".into(), "root".into()));
    variables.push(("JOB_TESTBED".into(), systemd.map_or("uml", Suite::name).into()));
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_a_kernel_command_line_would_split_are_refused() {
        assert!(check_path(Path::new("/home/me/job-broker")).is_ok());
        for path in ["/home/my stuff", "/a,b", "/it's"] {
            assert!(check_path(Path::new(path)).is_err(), "{path} was accepted");
        }
    }
}
