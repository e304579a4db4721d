//! landlock(7): a domain that keeps a process from the abstract Unix sockets of all that is outside of it. Nothing of
//! files: mounts do that.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use libc::{c_long, c_uint};
use nix::errno::Errno;

use super::Result;

const CREATE_RULESET_VERSION: c_uint = 1;
const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1;
/// The first version of the interface that has scopes: Linux 6.12.
const SCOPES: c_long = 6;

/// The kernel's `struct landlock_ruleset_attr`.
#[repr(C)]
#[derive(Default)]
struct RulesetAttr {
    files: u64,
    network: u64,
    scoped: u64,
}

/// Puts this process, and all that it starts, into a domain of its own. A kernel that has no scopes changes nothing.
///
/// # Errors
/// EPERM without no_new_privs.
pub(crate) fn scope_abstract_sockets() -> Result<()> {
    // SAFETY: with this flag and no attributes the version is asked for, and no memory touched.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, 0usize, 0usize, CREATE_RULESET_VERSION)
    };
    if version < SCOPES {
        return Ok(());
    }
    let attributes = RulesetAttr { scoped: SCOPE_ABSTRACT_UNIX_SOCKET, ..RulesetAttr::default() };
    let (pointer, size) = (&raw const attributes, size_of::<RulesetAttr>());
    // SAFETY: the attributes outlive the call, and the size is theirs.
    let ruleset =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, pointer, size, 0 as c_uint) };
    // SAFETY: the kernel has just made this descriptor for us.
    let ruleset = unsafe { OwnedFd::from_raw_fd(Errno::result(ruleset)? as RawFd) };
    let number = ruleset.as_raw_fd();
    // SAFETY: touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, number, 0 as c_uint) };
    Errno::result(result).map(drop)
}
