//! seccomp(2), and this room's unsafe code.
#![allow(unsafe_code, reason = "this is the one room for it")]

use libc::{c_uint, c_ulong, sock_filter, sock_fprog};
use nix::errno::Errno;

/// Puts a filter before all later calls of this thread and of what it starts.
///
/// # Errors
/// EACCES without no_new_privs; EINVAL for a program that is none; EINVAL or ENOSYS where the kernel has no filters.
pub(super) fn set_filter(program: &[sock_filter], flags: c_ulong) -> nix::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    let program = sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: pointer and length are those of one slice, which outlives the call and is only read.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    Errno::result(result).map(drop)
}

/// Whether the kernel has filters with this action.
pub(super) fn has_action(action: c_uint) -> bool {
    // SAFETY: reads one integer, which outlives the call.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action)
    };
    result == 0
}
