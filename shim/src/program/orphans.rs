//! The children that a shim inherits as process 1 of a pid namespace: whoever's parent has ended. They are reaped, and
//! nothing else.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use job_shim::isolation::Isolation;
use job_shim::launch::Launch;
use job_shim::wire::Step;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use super::failure::{At, Failure};
use crate::sys;

/// From one reaping to the next: a job that makes thousands of orphans a second costs its shim little, and has fewer
/// processes left meanwhile, since a zombie counts in `pids.max`.
const PAUSE: Duration = Duration::from_millis(10);

/// Tells when there may be some.
pub(crate) struct Orphans {
    signals: SignalFd,
    /// None are looked for before.
    not_before: Option<Duration>,
}

impl Orphans {
    /// Before the clone, so that no SIGCHLD is missed; the child unblocks it. `None`: this is not process 1.
    ///
    /// # Errors
    /// `MakePipes` with EMFILE, ENOMEM.
    pub(crate) fn of(launch: &Launch) -> Result<Option<Orphans>, Failure> {
        if !matches!(launch.isolation, Some(Isolation { pids: true, .. })) {
            return Ok(None);
        }
        let child = SigSet::from_iter([Signal::SIGCHLD]);
        child.thread_block().at(Step::Signals)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&child, flags).at(Step::MakePipes)?;
        Ok(Some(Orphans { signals, not_before: None }))
    }

    /// When to look again for what came meanwhile.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.not_before
    }

    /// To wait for; nothing during a pause.
    pub(crate) fn signals(&self) -> Option<BorrowedFd<'_>> {
        self.not_before.is_none().then(|| self.signals.as_fd())
    }

    /// Ends a pause that is over.
    pub(crate) fn resume(&mut self, now: Duration) {
        self.not_before = self.not_before.filter(|time| now < *time);
    }

    /// Reaps all that have ended, up to the main process, which is not an orphan. Once that has been reaped its number
    /// is nobody's: `None`.
    pub(crate) fn reap(&mut self, now: Duration, main: Option<Pid>) {
        while matches!(self.signals.read_signal(), Ok(Some(_))) {}
        let mut any = false;
        while let Some(pid) = sys::ended_child().filter(|pid| Some(*pid) != main) {
            any |= sys::wait(pid, false).is_ok();
        }
        if any {
            self.not_before = Some(now + PAUSE);
        }
    }
}
