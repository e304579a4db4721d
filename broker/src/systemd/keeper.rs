//! The keeper: a process that sleeps in the leaf `keeper/` of the jobs' scope, since systemd stops an empty scope. It
//! is the program `job-shim` with another `argv[0]`, and must not do anything but sleep.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use crate::sys;

const LEAF: &str = "keeper";

/// A keeper process; alive when found or started.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) pid: u32,
    /// Readable when the keeper has ended.
    pub(super) pidfd: OwnedFd,
}

impl Keeper {
    /// The keeper in this scope, if one is alive.
    pub(super) fn find(scope: &Path) -> Option<Keeper> {
        let in_leaf = || fs::read_to_string(scope.join(LEAF).join("cgroup.procs")).ok();
        let pid: u32 = in_leaf()?.lines().next()?.parse().ok()?;
        let pidfd = sys::pidfd_open(pid).ok()?;
        // The pid is still in the leaf after pidfd_open(2), so the pidfd is the keeper's.
        let stays = in_leaf()?.lines().any(|line| line.parse() == Ok(pid));
        stays.then_some(Keeper { pid, pidfd })
    }

    /// Starts a keeper in the leaf.
    ///
    /// # Errors
    /// As mkdir(2) and clone3(2).
    pub(super) fn start_in(scope: &Path, program: BorrowedFd<'_>) -> io::Result<Keeper> {
        make_leaf(scope)?;
        start(&scope.join(LEAF), program)
    }

    /// Starts a keeper in the broker's own cgroup. systemd moves it into the scope that it creates.
    ///
    /// # Errors
    /// As open(2) and clone3(2).
    pub(super) fn start_here(mount: &Path, program: BorrowedFd<'_>) -> io::Result<Keeper> {
        let text = fs::read_to_string("/proc/self/cgroup")?; // "0::/system.slice/job-broker.service"
        let own = text.lines().find_map(|line| line.strip_prefix("0::/"));
        let own = own.ok_or_else(|| io::Error::other("this process has no cgroup v2"))?;
        start(&mount.join(own), program)
    }

    pub(super) fn lives(&self) -> bool {
        let ended = sys::pidfd_has_ended(self.pidfd.as_fd());
        if ended {
            sys::pidfd_reap(self.pidfd.as_fd());
        }
        !ended
    }

    /// Kills the keeper of a scope that could not be created.
    pub(super) fn end(&self) {
        let _ = sys::pidfd_kill(self.pidfd.as_fd(), libc::SIGKILL); // ESRCH: it has ended already
    }
}

/// Moves the processes of the scope's own cgroup into the leaf. systemd puts the first process of a scope there, and
/// a broker may have been killed before moving it. Controllers can be enabled for the jobs only if the scope's own
/// cgroup has no process ("no internal processes", cgroup-v2.rst).
///
/// # Errors
/// As mkdir(2) and write(2).
pub(super) fn move_into_leaf(scope: &Path) -> io::Result<()> {
    make_leaf(scope)?;
    for pid in fs::read_to_string(scope.join("cgroup.procs"))?.lines() {
        match fs::write(scope.join(LEAF).join("cgroup.procs"), pid) {
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {} // the process has ended
            moved => moved?,
        }
    }
    Ok(())
}

fn make_leaf(scope: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(scope.join(LEAF)) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn start(cgroup: &Path, program: BorrowedFd<'_>) -> io::Result<Keeper> {
    let (null, cgroup) = (File::open("/dev/null")?, File::open(cgroup)?);
    let null = null.as_raw_fd();
    let request = sys::SpawnRequest {
        program,
        argv: &[c"job-keeper"],
        descriptors: &[null, null, null],
        new_pid_namespace: false,
        cgroup: cgroup.as_fd(),
    };
    let child = sys::spawn(&request)?;
    Ok(Keeper { pid: child.pid, pidfd: child.pidfd })
}
