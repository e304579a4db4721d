//! System calls that no crate wraps: the only module of the broker with unsafe code. It must not contain policy:
//! callers decide what to read, keep or wait for. Those that spawn and signal are `job_launch`'s.
#![allow(unsafe_code, reason = "each block says why it is sound")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

pub(crate) use job_launch::sys::{
    SpawnRequest, pidfd_has_ended, pidfd_kill, pidfd_open, pidfd_reap, spawn,
};
use libc::c_int;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Reads from the page cache only, preadv2(2) with RWF_NOWAIT: appends bytes of `file` from `offset`, up to the
/// spare capacity of `into`, and never waits for a disk. Returns the number of bytes, which may be 0.
///
/// # Errors
/// As preadv2(2), but for EAGAIN and EOPNOTSUPP, which mean 0 bytes.
pub(crate) fn read_cached(file: RawFd, into: &mut Vec<u8>, offset: u64) -> io::Result<usize> {
    let spare = into.spare_capacity_mut();
    let iov = libc::iovec { iov_base: spare.as_mut_ptr().cast(), iov_len: spare.len() };
    // SAFETY: the iovec describes the vector's own spare memory, which the kernel only writes.
    let read = unsafe { read_nowait(file, iov, offset) }?;
    // SAFETY: the kernel has initialised the first `read` bytes of the spare memory.
    unsafe { into.set_len(into.len() + read) };
    Ok(read)
}

/// As [`read_cached`], into a slice.
///
/// # Errors
/// As [`read_cached`].
pub(crate) fn read_cached_into(file: RawFd, into: &mut [u8], offset: u64) -> io::Result<usize> {
    let iov = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: the iovec describes the slice, which is borrowed for writing.
    unsafe { read_nowait(file, iov, offset) }
}

/// # Safety
/// `into` describes memory that may be written until this returns.
unsafe fn read_nowait(file: RawFd, into: libc::iovec, offset: u64) -> io::Result<usize> {
    // SAFETY: the caller vouches for the memory; the kernel checks descriptor and offset.
    let result = check(unsafe {
        libc::preadv2(file, &into, 1, offset as libc::off_t, libc::RWF_NOWAIT) as libc::c_long
    });
    match result {
        Ok(read) => Ok(read as usize),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EOPNOTSUPP)) => Ok(0),
        Err(e) => Err(e),
    }
}

/// Makes the allocator keep freed memory instead of returning it to the kernel, mallopt(3). The broker allocates
/// and frees thousands of pieces of output a second, and page faults cost more than copying. Measured for 1 GiB
/// to a client: 0.95 s without, 0.70 s with this.
pub(crate) fn keep_freed_memory() {
    // SAFETY: no other thread exists yet; both parameters accept any size.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 4 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 16 << 20);
    }
}

/// Takes the first descriptor passed by systemd, sd_listen_fds(3), which must be a listening TCP socket. Call it
/// once, early, and only if the environment says that there is a descriptor.
///
/// # Errors
/// EBADF, ENOTSOCK; `InvalidInput` for another kind of socket.
pub(crate) fn first_passed_listener() -> io::Result<std::net::TcpListener> {
    const FIRST: RawFd = 3;
    let option = |name| {
        let (mut value, mut length) = (0 as c_int, size_of::<c_int>() as libc::socklen_t);
        // SAFETY: value and length are ours and of the size that is said.
        check(unsafe {
            let (value, length) = ((&raw mut value).cast(), &raw mut length);
            libc::getsockopt(FIRST, libc::SOL_SOCKET, name, value, length) as libc::c_long
        })?;
        io::Result::Ok(value)
    };
    let is_tcp =
        option(libc::SO_PROTOCOL)? == libc::IPPROTO_TCP && option(libc::SO_ACCEPTCONN)? == 1;
    if !is_tcp {
        let fault = "the descriptor passed by systemd is not a listening TCP socket";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, fault));
    }
    // SAFETY: the descriptor is open, since getsockopt(2) succeeded, and nothing else in this process owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(FIRST) };
    nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    Ok(fd.into())
}

/// Registers a descriptor with the tokio runtime, to wait until it is readable.
///
/// # Errors
/// As epoll_ctl(2).
pub(crate) fn watch_readable(fd: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: the registration holds an `Arc` of the descriptor, which stays open and unchanged as long as it is
    // registered.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
        .map_err(|e| io::Error::other(e.to_string()))
}
