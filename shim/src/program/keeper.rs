//! `job-keeper`: the process that keeps the jobs' systemd scope from being empty, since systemd
//! removes an empty one. It is this program under another name, so that there is one binary less to
//! install; it needs nothing, holds nothing and does nothing.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::os::fd::RawFd;

use caps::CapSet;
use nix::unistd::{pause, setsid};

use super::startup::default_dispositions;
use crate::sys;

/// Descriptors 0 to 2 are /dev/null.
const FIRST_OWN_FD: RawFd = 3;

/// Whether that is what this process was started as.
pub(super) fn is_wanted() -> bool {
    std::env::args_os().next().as_deref() == Some(OsStr::new("job-keeper"))
}

/// Sleeps until a signal ends it. No capability and no descriptor: as root it is only a uid that no
/// job can signal. A session of its own, so that no terminal's hang-up reaches it.
///
/// # Errors
/// None that a kernel returns; the parent sees it exit.
pub(super) fn keep() -> Result<Infallible, Box<dyn std::error::Error>> {
    sys::close_from(FIRST_OWN_FD)?;
    default_dispositions()?;
    setsid()?;
    // Where the kernel was asked to run a descriptor, it calls the process by that number.
    std::fs::write("/proc/self/comm", "job-keeper")?;
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set)?;
    }
    loop {
        pause();
    }
}
