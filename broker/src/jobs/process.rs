//! The processes of shims: which of them live, and their ends. What cannot be asked now, for want of
//! a descriptor or of memory, is an error and never an end: a job would be killed for it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::host;
use crate::store::records::SpawnRecord;
use crate::sys;

/// Between two looks at a process whose end nobody can tell.
const PAUSE: Duration = Duration::from_secs(1);

/// The process of a shim, if it lives. The pidfd first, then the start time: a stranger that has the
/// pid now has another one, and is left alone.
///
/// # Errors
/// As pidfd_open(2) and open(2), where they say nothing about the process.
pub(super) fn of(spawned: &SpawnRecord) -> io::Result<Option<OwnedFd>> {
    let Some(pidfd) = living(spawned.shim_pid)? else { return Ok(None) };
    let start_time = known(host::start_time(spawned.shim_pid))?;
    Ok((start_time == Some(spawned.shim_start_time)).then_some(pidfd))
}

/// Some process, if it lives. One that has ended and not been reaped yet, by whoever has inherited
/// it, does not.
///
/// # Errors
/// As pidfd_open(2), where that says nothing about the process.
pub(super) fn living(pid: u32) -> io::Result<Option<OwnedFd>> {
    let pidfd = known(sys::pidfd_open(pid))?;
    Ok(pidfd.filter(|pidfd| !sys::pidfd_has_ended(pidfd.as_fd())))
}

/// `None` where the answer is that there is no such process: ENOENT in proc(5), ESRCH while it is
/// read, EINVAL for the number of a thread.
fn known<T>(answer: io::Result<T>) -> io::Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(e) => match e.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH | libc::EINVAL) => Ok(None),
            _ => Err(e),
        },
    }
}

/// Answers when the process has ended, and reaps it if it is ours.
pub(super) async fn ended(pidfd: &Arc<OwnedFd>) {
    while !sys::pidfd_has_ended(pidfd.as_fd()) {
        match sys::watch_readable(Arc::clone(pidfd)) {
            Ok(fd) if fd.readable().await.is_ok() => {}
            Ok(_) => sleep(PAUSE).await,
            Err(e) => {
                tracing::error!("the end of a shim cannot be waited for, only looked for: {e}");
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
    fn what_cannot_be_asked_is_no_end() {
        let asked = |errno| known::<()>(Err(io::Error::from_raw_os_error(errno)));
        assert!(asked(libc::ESRCH).unwrap().is_none());
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOMEM] {
            assert_eq!(asked(errno).unwrap_err().raw_os_error(), Some(errno));
        }
    }
}
