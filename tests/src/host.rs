//! Features of this host, for tests that need them. A test asks first, and is skipped with a reason;
//! where `JOB_TESTS_LEAVE_NOTHING_OUT` is set, as in the testbed VM, it fails instead.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use tempfile::TempDir;

use crate::cgroup;
use crate::scratch::open_to_jobs;

/// A directory on a disk of its own: a real block device, writable for jobs. Set by `xtask test`.
const DISK: &str = "JOB_TESTS_DISK";
const SKIP_NOTHING: &str = "JOB_TESTS_LEAVE_NOTHING_OUT";

/// A feature that a test can need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The controller, of cgroup v2 and handed down from the root.
    Cpu,
    /// The same.
    Memory,
    /// The same.
    Io,
    /// The same.
    Pids,
    /// See [`disk`].
    Disk,
    /// A disk with project quotas in force.
    ProjectQuotas,
}

/// Whether the host has all of these. If not, the reason is printed, and the test must return.
///
/// # Panics
/// Where no test may be skipped.
pub fn has(needs: &[Need]) -> bool {
    has_unless(needs.iter().find_map(|need| need.missing()))
}

/// The same for a program that a test needs. It is to answer to `option` without doing anything.
///
/// # Panics
/// Where no test may be skipped.
pub fn has_program(name: &str, option: &str) -> bool {
    let ran = Command::new(name).arg(option).stdin(Stdio::null()).output();
    has_unless(ran.err().map(|error| format!("{name} cannot be run: {error}")))
}

/// The same for a kernel that is at least so new.
///
/// # Panics
/// Where no test may be skipped.
pub fn has_kernel(major: u32, minor: u32) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    let is_new = (numbers.next(), numbers.next()) >= (Some(major), Some(minor));
    has_unless((!is_new).then(|| format!("the kernel is older than {major}.{minor}")))
}

fn has_unless(missing: Option<String>) -> bool {
    let Some(why) = missing else { return true };
    assert!(std::env::var_os(SKIP_NOTHING).is_none(), "this host must have all: {why}");
    skip(&why);
    false
}

/// Whether the host lacks this, for tests of that case. If it does not, that is printed.
pub fn lacks(need: Need) -> bool {
    let lacks = need.missing().is_some();
    if !lacks {
        skip(&format!("{need} is there"));
    }
    lacks
}

/// Prints why a test is skipped.
pub fn skip(why: &str) {
    tell(&format!("left out: {why}"));
}

/// Prints past libtest, which captures the output of tests that pass.
pub fn tell(what: &str) {
    let thread = thread::current();
    let test = thread.name().unwrap_or("a test");
    let _ = writeln!(io::stderr(), "{test}: {what}"); // nobody may be reading
}

/// A new directory on the disk, in which jobs may create files.
///
/// # Panics
/// Where there is none: ask [`has`] first.
pub fn disk() -> TempDir {
    let disk = disk_path().expect("somebody asked whether there is a disk");
    let dir = tempfile::tempdir_in(disk).expect("a directory on the disk");
    open_to_jobs(dir.path(), 0o777);
    dir
}

impl Need {
    /// Whether it is there, for tests that are run either way.
    pub fn is_met(self) -> bool {
        self.missing().is_none()
    }

    fn missing(self) -> Option<String> {
        if self == Need::Disk {
            let is_there = disk_path().is_some_and(|path| path.is_dir());
            return (!is_there).then(|| format!("{DISK} names no directory on a disk"));
        }
        if self == Need::ProjectQuotas {
            let disk = disk_path().unwrap_or_default();
            let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
            let is_there = table.lines().any(|line| {
                let mut fields = line.split(' ').skip(1);
                let place = fields.next().filter(|place| *place != "/");
                place.is_some_and(|place| disk.starts_with(place))
                    && fields.nth(1).is_some_and(|options| options.contains("prjquota"))
            });
            return (!is_there).then(|| format!("{DISK} names no disk with project quotas"));
        }
        let root = cgroup::mount();
        let handed_down = fs::read_to_string(root.join("cgroup.subtree_control"));
        let handed_down = handed_down.expect("the root of cgroup2 can be read");
        let is_there = handed_down.split_whitespace().any(|name| name == self.to_string());
        (!is_there).then(|| format!("{} does not hand down the controller {self}", root.display()))
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Need::Cpu => "cpu",
            Need::Memory => "memory",
            Need::Io => "io",
            Need::Pids => "pids",
            Need::Disk => "a disk",
            Need::ProjectQuotas => "a disk with project quotas",
        })
    }
}

pub(crate) fn disk_path() -> Option<PathBuf> {
    std::env::var_os(DISK).map(PathBuf::from)
}
