//! Step 4: the workload's cgroup, through files that are opened while the shim is root. Their
//! permission is judged at open(2), so they work after all privileges are gone.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use job_shim::wire::Step;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::{At, Failure};
use crate::sys;

/// The cgroup `work`.
pub(crate) struct Cgroup {
    kill: File,
    events: File,
    procs: File,
}

impl Cgroup {
    /// Opens what is needed of it.
    ///
    /// # Errors
    /// `OpenCgroup`; ENOENT for `cgroup.kill` before Linux 5.14.
    pub(crate) fn open(directory: impl AsFd) -> Result<Cgroup, Failure> {
        let open = |name: &str, flags: OFlag| {
            let flags = flags | OFlag::O_CLOEXEC;
            openat(&directory, name, flags, Mode::empty()).map(File::from).at(Step::OpenCgroup)
        };
        Ok(Cgroup {
            kill: open("cgroup.kill", OFlag::O_WRONLY)?,
            events: open("cgroup.events", OFlag::O_RDONLY)?,
            procs: open("cgroup.procs", OFlag::O_RDONLY)?,
        })
    }

    /// Kills all that is in it now. A process that joins after this lives: to be repeated while
    /// [`Cgroup::populated`].
    pub(crate) fn kill(&self) {
        // ENODEV: somebody has removed the cgroup, so that nothing is left to kill.
        let _ = self.kill.write_at(b"1", 0);
    }

    /// Whether a living process is in it. Zombies do not count.
    pub(crate) fn populated(&self) -> bool {
        let mut text = [0; 128];
        // An error is ENODEV: a removed cgroup is empty.
        let length = self.events.read_at(&mut text, 0).unwrap_or(0);
        text[..length].split(|byte| *byte == b'\n').any(|line| line == b"populated 1")
    }

    /// Readable as POLLPRI when [`Cgroup::populated`] may have changed since it was last asked.
    pub(crate) fn events(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// One signal to each process that is in it now, and SIGCONT after it: a stopped process does
    /// not act on a signal before it goes on.
    pub(crate) fn signal_all(&mut self, signal: i32) {
        let mut text = [0; 512];
        let mut pid = 0_i32;
        if self.procs.rewind().is_err() {
            return;
        }
        while let Ok(length @ 1..) = self.procs.read(&mut text) {
            for byte in &text[..length] {
                match byte {
                    b'0'..=b'9' => pid = pid.wrapping_mul(10).wrapping_add(i32::from(byte - b'0')),
                    _ => signal_one(std::mem::take(&mut pid), signal),
                }
            }
        }
    }
}

fn signal_one(pid: i32, signal: i32) {
    // 0 is a process of another pid namespace, and for kill(2) the shim's own group.
    if pid > 0 {
        // ESRCH: it has ended meanwhile.
        let _ = sys::kill(pid, signal);
        let _ = sys::kill(pid, libc::SIGCONT);
    }
}
