//! The one room of jobctl that is not safe Rust.
#![allow(unsafe_code, reason = "each block says why it is sound")]

/// raise(3): stops this process as Ctrl-Z does one that does not catch it; answers when it goes on.
pub(crate) fn stop_self() {
    // SAFETY: it takes a number; no memory is touched.
    unsafe { libc::raise(libc::SIGSTOP) };
}

/// _exit(2): no handlers, no destructors.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: it takes a number and does not return; no memory is touched.
    unsafe { libc::_exit(status) }
}
