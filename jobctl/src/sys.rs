//! The one room of jobctl that is not safe Rust.
#![allow(unsafe_code, reason = "each block says why it is sound")]

/// raise(3): stops this process as Ctrl-Z does one that does not catch it; answers when it goes on.
pub(crate) fn stop_self() {
    // SAFETY: it takes a number; no memory is touched.
    unsafe { libc::raise(libc::SIGSTOP) };
}

/// The effective uid of this process.
pub(crate) fn own_uid() -> u32 {
    // SAFETY: it takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// Leaves the session, the terminal and every open file of whoever started this process, but the standard three;
/// what it creates from now on is its owner's alone. To be called before anything is opened.
pub(crate) fn detach() {
    // SAFETY: the calls take numbers. No file that this process has opened itself is open yet.
    unsafe {
        libc::setsid(); // fails for the leader of a process group, which has no terminal to lose then
        libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32); // Linux 5.9
        libc::umask(0o077);
    }
}

/// flock(2), exclusive and without waiting; held until the file is closed.
pub(crate) fn try_lock(file: &std::fs::File) -> bool {
    use std::os::fd::AsRawFd as _;
    // SAFETY: the descriptor is open for as long as `file` is borrowed.
    unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) == 0 }
}

/// kill(2) with SIGTERM: whether there is such a process.
pub(crate) fn ask_to_end(pid: i32) -> bool {
    // SAFETY: it takes numbers.
    unsafe { libc::kill(pid, libc::SIGTERM) == 0 }
}

/// _exit(2): no handlers, no destructors.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: it takes a number and does not return; no memory is touched.
    unsafe { libc::_exit(status) }
}
