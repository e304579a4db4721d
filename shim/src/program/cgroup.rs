//! Step 4: the workload's cgroup, through files that are opened while the shim is root. Their
//! permission is judged at open(2), so they work after all privileges are gone.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use job_shim::wire::Step;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::{At, Failure};
use crate::sys;

/// The cgroup `work`.
pub(crate) struct Cgroup {
    kill: File,
    events: File,
    procs: File,
    freeze: File,
    cpu_stat: File,
    /// Only with the memory controller.
    memory_events: Option<File>,
}

impl Cgroup {
    /// Opens what is needed of it.
    ///
    /// # Errors
    /// `OpenCgroup`; ENOENT for `cgroup.kill` before Linux 5.14. Without the memory controller
    /// nothing of it is killed for memory by a limit of its own, and that is no error.
    pub(crate) fn open(directory: impl AsFd) -> Result<Cgroup, Failure> {
        let open = |name: &str, flags: OFlag| {
            let flags = flags | OFlag::O_CLOEXEC;
            openat(&directory, name, flags, Mode::empty()).map(File::from)
        };
        let open_if_there = |name: &str| match open(name, OFlag::O_RDONLY) {
            Err(Errno::ENOENT) => Ok(None),
            result => result.map(Some),
        };
        Ok(Cgroup {
            kill: open("cgroup.kill", OFlag::O_WRONLY).at(Step::OpenCgroup)?,
            events: open("cgroup.events", OFlag::O_RDONLY).at(Step::OpenCgroup)?,
            procs: open("cgroup.procs", OFlag::O_RDONLY).at(Step::OpenCgroup)?,
            freeze: open("cgroup.freeze", OFlag::O_WRONLY).at(Step::OpenCgroup)?,
            cpu_stat: open("cpu.stat", OFlag::O_RDONLY).at(Step::OpenCgroup)?,
            memory_events: open_if_there("memory.events").at(Step::OpenCgroup)?,
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
        number(&self.events, "populated") == Some(1)
    }

    /// Whether the kernel has killed a process that was in it, for lack of memory here or anywhere
    /// above. The kernel counts before it sends the signal ("task reaper must see this",
    /// mm/oom_kill.c), so whoever has waited for the process sees it.
    pub(crate) fn killed_for_memory(&self) -> bool {
        self.memory_events.as_ref().is_some_and(|events| {
            ["oom_kill", "oom_group_kill"].iter().any(|key| number(events, key) > Some(0))
        })
    }

    /// What all processes together have used that are or were in it.
    pub(crate) fn cpu_time(&self) -> Duration {
        Duration::from_micros(number(&self.cpu_stat, "usage_usec").unwrap_or(0))
    }

    /// Lets frozen processes go on.
    pub(crate) fn thaw(&self) {
        // ENODEV: the cgroup is removed, and nothing is left in it.
        let _ = self.freeze.write_at(b"0", 0);
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

/// One of the numbers in a file of lines like `populated 1`. `None` without it, and for a cgroup
/// that is removed (ENODEV).
fn number(file: &File, key: &str) -> Option<u64> {
    let mut text = [0; 512];
    let length = file.read_at(&mut text, 0).ok()?;
    let lines = std::str::from_utf8(&text[..length]).ok()?.lines();
    lines.filter_map(|line| line.split_once(' ')).find(|(name, _)| *name == key)?.1.parse().ok()
}

fn signal_one(pid: i32, signal: i32) {
    // 0 is a process of another pid namespace, and for kill(2) the shim's own group.
    if pid > 0 {
        // ESRCH: it has ended meanwhile.
        let _ = sys::kill(pid, signal);
        let _ = sys::kill(pid, libc::SIGCONT);
    }
}
