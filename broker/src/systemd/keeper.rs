//! The keeper: a process that sleeps in the leaf `keeper/` of the jobs' scope, so that systemd never
//! sees the scope empty. It is `job-shim` under another name.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use crate::sys;

const LEAF: &str = "keeper";

/// A keeper that lived when it was found or started.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) pid: u32,
    /// Readable once it has ended.
    pub(super) pidfd: OwnedFd,
}

impl Keeper {
    /// The one in this scope, if any lives.
    pub(super) fn find(scope: &Path) -> Option<Keeper> {
        let in_leaf = || fs::read_to_string(scope.join(LEAF).join("cgroup.procs")).ok();
        let pid: u32 = in_leaf()?.lines().next()?.parse().ok()?;
        let pidfd = sys::pidfd_open(pid).ok()?;
        // Still there, now that the descriptor is held: so it is the descriptor's process.
        let stays = in_leaf()?.lines().any(|line| line.parse() == Ok(pid));
        stays.then_some(Keeper { pid, pidfd })
    }

    /// A new one in the leaf.
    ///
    /// # Errors
    /// As mkdir(2) and clone3(2).
    pub(super) fn start_in(scope: &Path, program: BorrowedFd<'_>) -> io::Result<Keeper> {
        make_leaf(scope)?;
        start(&scope.join(LEAF), program)
    }

    /// A new one beside us, for a scope that is yet to be made: systemd moves it there.
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

    /// Of a scope that did not come to be.
    pub(super) fn end(&self) {
        let _ = sys::pidfd_kill(self.pidfd.as_fd(), libc::SIGKILL); // gone is as good
    }
}

/// Moves what is in the scope itself into the leaf: systemd puts a scope's first process there, and
/// a broker may have died before it moved it on. Controllers can be enabled for the jobs only when
/// nobody is left ("no internal processes", cgroup-v2.rst).
///
/// # Errors
/// As mkdir(2) and write(2).
pub(super) fn move_into_leaf(scope: &Path) -> io::Result<()> {
    make_leaf(scope)?;
    for pid in fs::read_to_string(scope.join("cgroup.procs"))?.lines() {
        match fs::write(scope.join(LEAF).join("cgroup.procs"), pid) {
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {} // it has just ended
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
        cgroup: cgroup.as_fd(),
    };
    let child = sys::spawn(&request)?;
    Ok(Keeper { pid: child.pid, pidfd: child.pidfd })
}
