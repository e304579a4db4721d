//! User namespaces that say whom root's files belong to in a mount, and whether a mount can be so: mount_setattr(2),
//! MOUNT_ATTR_IDMAP. Nothing ever runs in them: the process that makes one ends before anything else is done with it.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::{c_int, c_uint};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::clone::{pidfd_reap_blocking, with_signals_blocked};
use super::{check, pidfd_kill};

/// How long the child may take, in milliseconds.
const TIMEOUT: u16 = 5000;

/// A user namespace in which uid and gid 0 are these, and every other number is what it is everywhere. The two
/// themselves are nobody's, since no number may have two meanings; root's is none's. Blocks for a millisecond.
///
/// # Errors
/// ENOSPC and EPERM where the host allows no user namespaces (`user.max_user_namespaces`).
pub(crate) fn user_namespace(uid: u32, gid: u32) -> io::Result<OwnedFd> {
    let (waits, ready) = io::pipe()?;
    let parent = std::process::id() as libc::pid_t;
    let mut pidfd: c_int = -1;
    // Its own memory, so that nothing of ours is shared but the descriptors.
    let flags = libc::CLONE_FILES | libc::CLONE_NEWUSER | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: as fork(2). The child makes only system calls. Signals are blocked in it, so that no handler runs there.
    let pid = unsafe {
        with_signals_blocked(|| {
            let pidfd = &raw mut pidfd;
            match libc::syscall(libc::SYS_clone, flags as libc::c_ulong, 0, pidfd, 0, 0) {
                0 => child(parent, ready.as_raw_fd()),
                pid => pid as isize,
            }
        })
    };
    check(pid as libc::c_long)?;
    // SAFETY: clone has succeeded, so the kernel has stored a new descriptor here.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let namespace = opened(waits, pidfd.as_fd());
    let mapped = namespace.and_then(|namespace| {
        fs::write(format!("/proc/{pid}/uid_map"), map(uid))?;
        fs::write(format!("/proc/{pid}/gid_map"), map(gid))?;
        Ok(namespace)
    });
    let _ = pidfd_kill(pidfd.as_fd(), libc::SIGKILL); // it may have ended
    pidfd_reap_blocking(&pidfd);
    mapped
}

/// What the child has opened.
fn opened(mut told: io::PipeReader, child: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut fds =
        [PollFd::new(told.as_fd(), PollFlags::POLLIN), PollFd::new(child, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(TIMEOUT))?;
    if !fds[0].any().unwrap_or_default() {
        return Err(io::Error::other("a user namespace is not made in time"));
    }
    let mut number = [0; 4];
    told.read_exact(&mut number)?;
    match c_int::from_ne_bytes(number) {
        // SAFETY: the child opened it, in the table that it shares, for this.
        number if number >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(number) }),
        _ => Err(io::Error::other("a process of a user namespace cannot open it")),
    }
}

/// In the child: opens its namespace, which only itself may where the broker is not dumpable, says its number, and waits
/// for its end.
///
/// # Safety
/// Only for a process that has just been cloned.
unsafe fn child(parent: libc::pid_t, ready: c_int) -> ! {
    // SAFETY: only system calls are made, over constants and local variables.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if libc::getppid() != parent {
            libc::_exit(1);
        }
        let flags = libc::O_RDONLY | libc::O_CLOEXEC;
        let number: c_int = libc::open(c"/proc/thread-self/ns/user".as_ptr(), flags);
        let bytes = number.to_ne_bytes();
        libc::write(ready, bytes.as_ptr().cast(), bytes.len());
        loop {
            libc::pause();
        }
    }
}

/// The lines of a map, user_namespaces(7): number inside, number outside, how many.
fn map(id: u32) -> String {
    let below = id.saturating_sub(1);
    let above = u32::MAX - id - 1; // the last number is none
    let mut lines = format!("0 {id} 1\n");
    for (first, count) in [(1, below), (id + 1, above)] {
        if count > 0 {
            lines.push_str(&format!("{first} {first} {count}\n"));
        }
    }
    lines
}

/// Whether a mount of this directory can have the owners of that user namespace. Mounts nothing.
///
/// # Errors
/// EINVAL, where the kernel or the file system cannot; ENOSYS before Linux 5.12.
pub(crate) fn can_have_owners(
    directory: BorrowedFd<'_>,
    namespace: BorrowedFd<'_>,
) -> io::Result<()> {
    const OPEN_TREE_CLONE: c_uint = 1;
    const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;
    let flags = OPEN_TREE_CLONE | (libc::O_CLOEXEC | libc::AT_EMPTY_PATH) as c_uint;
    // SAFETY: the path is a constant.
    let tree = check(unsafe {
        libc::syscall(libc::SYS_open_tree, directory.as_raw_fd(), c"".as_ptr(), flags)
    })?;
    // SAFETY: the kernel has just made this descriptor for us.
    let tree = unsafe { OwnedFd::from_raw_fd(tree as c_int) };
    let attributes = [MOUNT_ATTR_IDMAP, 0, 0, namespace.as_raw_fd() as u64]; // struct mount_attr
    // SAFETY: path and attributes outlive the call, which only reads them; the size is theirs.
    check(unsafe {
        let (path, size) = (c"".as_ptr(), size_of_val(&attributes));
        let (call, flags) = (libc::SYS_mount_setattr, libc::AT_EMPTY_PATH);
        libc::syscall(call, tree.as_raw_fd(), path, flags, attributes.as_ptr(), size)
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_gives_roots_number_to_one_account_and_no_number_to_root() {
        assert_eq!(map(1), "0 1 1\n2 2 4294967293\n");
        assert_eq!(map(65_534), "0 65534 1\n1 1 65533\n65535 65535 4294901760\n");
    }
}
