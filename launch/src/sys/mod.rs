//! System calls that no crate wraps: the only modules here with unsafe code. They must not contain policy:
//! callers decide what to spawn, signal or read.
#![allow(unsafe_code, reason = "each block says why it is sound")]

mod clone;
mod owner;
mod quota;

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use libc::c_int;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub(crate) use clone::NO_DESCRIPTOR;
pub use clone::{Child, SpawnRequest, spawn};
pub(crate) use owner::{can_have_owners, user_namespace};
pub use quota::{
    ProjectQuota, attribute, enforces_project_quotas, project, project_quota, set_attribute,
    set_project, set_project_quota,
};

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Opens a pidfd, pidfd_open(2). It becomes readable when the process ends.
///
/// # Errors
/// ESRCH if the process does not exist.
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Sends a signal to the process of a pidfd, pidfd_send_signal(2).
///
/// # Errors
/// ESRCH if the process has been reaped.
pub fn pidfd_kill(pidfd: BorrowedFd<'_>, signal: c_int) -> io::Result<()> {
    // SAFETY: a null siginfo means the siginfo of kill(2).
    check(unsafe {
        let info = ptr::null::<libc::siginfo_t>();
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0)
    })?;
    Ok(())
}

/// Reaps the process if it is a child of this one and has ended; otherwise does nothing.
pub fn pidfd_reap(pidfd: BorrowedFd<'_>) {
    let mut info = MaybeUninit::<libc::siginfo_t>::uninit();
    // SAFETY: `info` is memory for the kernel to write; nothing reads it.
    unsafe {
        let (fd, flags) = (pidfd.as_raw_fd() as libc::id_t, libc::WEXITED | libc::WNOHANG);
        libc::waitid(libc::P_PIDFD, fd, info.as_mut_ptr(), flags);
    }
}

/// Whether the process has ended, reaped or not.
pub fn pidfd_has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// Sets the supplementary groups of this thread only, with the setgroups(2) system call. The C library's function
/// sets them for every thread.
///
/// # Errors
/// EPERM without CAP_SETGID.
pub(crate) fn set_thread_groups(groups: &[libc::gid_t]) -> io::Result<()> {
    // SAFETY: length and pointer are those of the slice, which the kernel only reads.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    Ok(())
}

/// Whether this kernel has mount_setattr(2), and lets this process call it. Changes nothing.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN.
pub fn can_set_mounts() -> io::Result<bool> {
    const NOTHING: [u64; 4] = [0; 4]; // struct mount_attr
    // SAFETY: path and attributes are constants that the kernel only reads; no attribute is set or cleared.
    let result = check(unsafe {
        let (path, attributes) = (c"/".as_ptr(), NOTHING.as_ptr());
        let size = size_of_val(&NOTHING);
        libc::syscall(libc::SYS_mount_setattr, libc::AT_FDCWD, path, 0, attributes, size)
    });
    match result {
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => Ok(false),
        result => result.map(|_| true),
    }
}
