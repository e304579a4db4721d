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

use super::failure::{At, Failure};
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
        signal_each(|| self.pids(), signal);
    }

    /// Those of the processes that are in it now; none once it is removed (ENODEV).
    fn pids(&mut self) -> Vec<i32> {
        let (mut pids, mut text, mut pid) = (Vec::new(), [0; 512], 0_i32);
        if self.procs.rewind().is_err() {
            return pids;
        }
        while let Ok(length @ 1..) = self.procs.read(&mut text) {
            for byte in &text[..length] {
                match byte {
                    b'0'..=b'9' => pid = pid.wrapping_mul(10).wrapping_add(i32::from(byte - b'0')),
                    _ => pids.push(std::mem::take(&mut pid)),
                }
            }
        }
        pids.retain(|pid| *pid > 0); // 0 is a process of another pid namespace
        pids
    }
}

/// How many pidfds are open at once.
const BATCH: usize = 64;

/// Signals the processes of a list, and none that has come by one of their numbers since: a number is
/// that of the pidfd's process until this is reaped, so if it is on the list after the pidfd was opened,
/// that process is meant, or it is gone and takes no signal.
fn signal_each(mut list: impl FnMut() -> Vec<i32>, signal: i32) {
    for pids in list().chunks(BATCH) {
        let open = |pid: &i32| Some((*pid, sys::pidfd_open(*pid).ok()?));
        let opened: Vec<_> = pids.iter().filter_map(open).collect();
        let mut listed = list();
        listed.sort_unstable();
        for (_, pidfd) in opened.iter().filter(|(pid, _)| listed.binary_search(pid).is_ok()) {
            // ESRCH: it has ended meanwhile.
            let _ = sys::pidfd_signal(pidfd, signal);
            let _ = sys::pidfd_signal(pidfd, libc::SIGCONT);
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

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command};

    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("600").spawn().unwrap()
    }

    fn pid(child: &Child) -> i32 {
        i32::try_from(child.id()).unwrap()
    }

    #[test]
    fn a_stranger_that_has_come_by_the_number_of_a_process_of_the_job_gets_no_signal() {
        let (mut own, mut peer) = (sleeper(), sleeper());
        let (first, second) = (vec![pid(&own), pid(&peer)], vec![pid(&own)]);
        let mut lists = [first, second].into_iter();
        signal_each(|| lists.next().unwrap(), libc::SIGTERM);
        assert_eq!(own.wait().unwrap().signal(), Some(libc::SIGTERM));
        peer.kill().unwrap();
        assert_eq!(peer.wait().unwrap().signal(), Some(libc::SIGKILL));
    }

    #[test]
    fn all_processes_get_the_signal_however_many_there_are() {
        let mut all: Vec<_> = (0..3 * BATCH / 2).map(|_| sleeper()).collect();
        let pids: Vec<_> = all.iter().map(pid).collect();
        signal_each(|| pids.clone(), libc::SIGTERM);
        for child in &mut all {
            assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
        }
    }
}
