//! Identifies shim processes by pid and start time, and waits for their exit. A check that fails for lack of
//! descriptors or memory is an error, never an exit: the broker would kill the job.
//!
//! A shim that is process 1 of a pid namespace cannot end while a process of its job sleeps in the kernel. It has ended
//! all the same: it executes nothing and its files are closed.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::store::records::SpawnRecord;
use crate::sys;
use job_launch::host;

/// Poll interval for a process whose pidfd cannot be watched.
const PAUSE: Duration = Duration::from_secs(1);

/// Which process a shim is, as `spawn.json` has it. A pidfd is opened when it is needed and not kept:
/// while there is a connection, that tells the shim's end, too, and an idle job has one descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShimProcess {
    pub(crate) pid: u32,
    /// Clock ticks since boot.
    pub(crate) start_time: u64,
    /// The secret that authenticates the shim.
    pub(crate) nonce: [u8; 16],
}

impl From<&SpawnRecord> for ShimProcess {
    fn from(spawned: &SpawnRecord) -> ShimProcess {
        let SpawnRecord { shim_pid, shim_start_time, nonce, .. } = spawned;
        ShimProcess { pid: *shim_pid, start_time: *shim_start_time, nonce: *nonce.as_bytes() }
    }
}

impl ShimProcess {
    /// A pidfd, if the shim lives. The pidfd first, then the start time, which tells a process with a
    /// recycled pid from the shim. Reaps a dead child.
    ///
    /// # Errors
    /// As pidfd_open(2) and open(2), where they say nothing about the process.
    pub(crate) fn open(self) -> io::Result<Option<OwnedFd>> {
        let Some(pidfd) = or_gone(sys::pidfd_open(self.pid))? else { return Ok(None) };
        if or_gone(host::start_time(self.pid))? != Some(self.start_time) {
            return Ok(None);
        }
        if sys::pidfd_has_ended(pidfd.as_fd()) {
            sys::pidfd_reap(pidfd.as_fd());
            return Ok(None);
        }
        Ok(Some(pidfd))
    }

    /// Whether it is ending, and perhaps cannot yet; false if that cannot be checked now. For a process that
    /// [`ShimProcess::open`] has found.
    pub(crate) fn is_exiting(self) -> bool {
        host::is_exiting(self.pid).unwrap_or(false)
    }

    /// Whether it lives and is not ending. For those who do not have to reap it.
    ///
    /// # Errors
    /// As [`ShimProcess::open`].
    pub(crate) fn works(self) -> io::Result<bool> {
        Ok(self.open()?.is_some() && !self.is_exiting())
    }

    /// SIGKILL, if it lives.
    ///
    /// # Errors
    /// As [`ShimProcess::open`]; EPERM without CAP_KILL, since a shim's uid is not root's.
    pub(crate) fn kill(self) -> io::Result<()> {
        if let Some(pidfd) = self.open()? {
            or_gone(sys::pidfd_kill(pidfd.as_fd(), libc::SIGKILL))?;
        }
        Ok(())
    }
}

/// A pidfd of the process, if it lives. A zombie does not live, nor does what is ending.
///
/// # Errors
/// As pidfd_open(2) and open(2), where they say nothing about the process.
pub(crate) fn living(pid: u32) -> io::Result<Option<OwnedFd>> {
    let Some(pidfd) = or_gone(sys::pidfd_open(pid))? else { return Ok(None) };
    let lives = or_gone(host::is_exiting(pid))? == Some(false);
    Ok(Some(pidfd).filter(|pidfd| lives && !sys::pidfd_has_ended(pidfd.as_fd())))
}

/// The effective uid of a process, proc_pid_status(5). `None` if there is none.
///
/// # Errors
/// As open(2).
pub(crate) fn effective_uid(pid: u32) -> io::Result<Option<u32>> {
    let Some(status) = or_gone(fs::read_to_string(format!("/proc/{pid}/status")))? else {
        return Ok(None);
    };
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let uid = uids.and_then(|uids| uids.split_ascii_whitespace().nth(1)?.parse().ok());
    uid.map(Some).ok_or_else(|| io::Error::other("its uid cannot be read"))
}

/// `None` where the answer is that there is no such process: ENOENT in proc(5), ESRCH while it is
/// read, EINVAL for the number of a thread.
fn or_gone<T>(answer: io::Result<T>) -> io::Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(e) => match e.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH | libc::EINVAL) => Ok(None),
            _ => Err(e),
        },
    }
}

/// Reaps a process that is ending once it has ended, if it is a child.
pub(crate) fn reap_later(pidfd: Arc<OwnedFd>) {
    tokio::spawn(async move { wait_for_exit(&pidfd).await });
}

/// Waits for the exit of the process, and reaps it if it is a child.
pub(crate) async fn wait_for_exit(pidfd: &Arc<OwnedFd>) {
    while !sys::pidfd_has_ended(pidfd.as_fd()) {
        match sys::watch_readable(Arc::clone(pidfd)) {
            Ok(fd) if fd.readable().await.is_ok() => {}
            Ok(_) => sleep(PAUSE).await,
            Err(e) => {
                tracing::error!("the pidfd of a shim cannot be watched, the broker polls it: {e}");
                sleep(PAUSE).await;
            }
        }
    }
    sys::pidfd_reap(pidfd.as_fd());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_has_ended_does_not_live() {
        assert!(living(std::process::id()).unwrap().is_some());
        assert!(living(u32::MAX >> 2).unwrap().is_none());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert!(living(child.id()).unwrap().is_none());
    }

    #[test]
    fn a_stranger_with_the_pid_of_a_shim_is_neither_it_nor_killed() {
        let pid = std::process::id();
        let start_time = host::start_time(pid).unwrap();
        let own = ShimProcess { pid, start_time, nonce: [0; 16] };
        assert!(own.open().unwrap().is_some());
        let other = ShimProcess { start_time: start_time + 1, ..own };
        assert!(other.open().unwrap().is_none());
        other.kill().unwrap(); // or this test would end here
    }

    #[test]
    fn a_shim_of_ours_that_has_ended_is_reaped_by_whoever_looks() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        let shim = ShimProcess { pid, start_time: host::start_time(pid).unwrap(), nonce: [0; 16] };
        while shim.open().unwrap().is_some() {
            std::thread::yield_now();
        }
        assert_eq!(child.wait().unwrap_err().raw_os_error(), Some(libc::ECHILD));
    }

    #[test]
    fn what_cannot_be_asked_is_no_end() {
        let asked = |errno| or_gone::<()>(Err(io::Error::from_raw_os_error(errno)));
        assert!(asked(libc::ESRCH).unwrap().is_none());
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOMEM] {
            assert_eq!(asked(errno).unwrap_err().raw_os_error(), Some(errno));
        }
    }
}
