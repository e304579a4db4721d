//! A process with a filter, for one call.
#![allow(unsafe_code, reason = "raw system calls, in a child that does nothing else")]

use std::io::Read;
use std::os::fd::{AsRawFd, RawFd};

use job_shim::filter::install_program;
use libc::sock_filter;

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The call gave this.
    Value(i64),
    /// It failed with this.
    Errno(i32),
    /// This signal has killed the process.
    Killed(i32),
    /// The filter could not be installed: this errno.
    NotInstalled(i32),
}

/// In place of a number: getpid(2) of i386, through the gate of 32-bit programs.
pub(crate) const INT_80: u64 = u64::MAX;

/// In place of a number: abort(3), which is how a panic ends a shim.
pub(crate) const ABORT: u64 = u64::MAX - 1;

/// Forks, installs the filter if there is one, and makes the call. `prepare` comes first, and may only make system
/// calls.
pub(crate) fn attempt(program: Option<&[sock_filter]>, prepare: fn(), call: [u64; 7]) -> Outcome {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let report = writer.as_raw_fd();
    // SAFETY: the child makes only system calls before it exits; it allocates nothing and takes no lock.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        prepare();
        in_child(program, call, report);
    }
    drop(writer);
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    if libc::WIFSIGNALED(status) {
        return Outcome::Killed(libc::WTERMSIG(status));
    }
    let (kind, value) = bytes.split_first().unwrap();
    let value = i64::from_ne_bytes(value.try_into().unwrap());
    match kind {
        0 => Outcome::Value(value),
        1 => Outcome::Errno(value as i32),
        _ => Outcome::NotInstalled(value as i32),
    }
}

fn in_child(program: Option<&[sock_filter]>, call: [u64; 7], report: RawFd) -> ! {
    // SAFETY: system calls on values of this function's own; the attempted call gets numbers, or null pointers.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        if let Some(Err(errno)) = program.map(install_program) {
            tell(report, 2, errno as i64);
        }
        let [number, a, b, c, d, e, f] = call;
        if number == INT_80 {
            tell(report, 0, int_80());
        }
        if number == ABORT {
            libc::abort();
        }
        let result = libc::syscall(number as _, a, b, c, d, e, f);
        if result == -1 {
            tell(report, 1, i64::from(*libc::__errno_location()));
        }
        tell(report, 0, result);
    }
}

fn tell(report: RawFd, kind: u8, value: i64) -> ! {
    let mut bytes = [kind; 9];
    bytes[1..].copy_from_slice(&value.to_ne_bytes());
    // SAFETY: nine bytes of this function's own.
    unsafe {
        libc::write(report, bytes.as_ptr().cast(), bytes.len());
        libc::_exit(0)
    }
}

#[cfg(target_arch = "x86_64")]
fn int_80() -> i64 {
    let result: i64;
    // SAFETY: getpid(2), which touches no memory; the gate may clear r8 to r11.
    unsafe {
        std::arch::asm!("int 0x80", inout("rax") 20_i64 => result, out("r8") _, out("r9") _,
            out("r10") _, out("r11") _);
    }
    result
}

#[cfg(not(target_arch = "x86_64"))]
fn int_80() -> i64 {
    -1
}

/// Forks, installs the filter, and says what installing it and what one call after it have cost, in nanoseconds.
pub(crate) fn cost(program: Option<&[sock_filter]>) -> (u64, u64) {
    const CALLS: u64 = 2_000;
    let (mut reader, writer) = std::io::pipe().unwrap();
    // SAFETY: the child makes only system calls before it exits; it allocates nothing and takes no lock.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        // SAFETY: system calls on values of this function's own.
        unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            let begin = now();
            let installed = program.is_none_or(|program| install_program(program).is_ok());
            let between = now();
            for _ in 0..CALLS {
                libc::syscall(libc::SYS_getppid);
            }
            let end = now();
            let report = [u64::from(installed), between - begin, (end - between) / CALLS];
            libc::write(writer.as_raw_fd(), report.as_ptr().cast(), size_of_val(&report));
            libc::_exit(0)
        }
    }
    drop(writer);
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    // SAFETY: no status is asked for.
    assert_eq!(unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) }, child);
    let words = bytes.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word));
    let [installed, install, call] = words.collect::<Vec<_>>().try_into().unwrap();
    assert_eq!(installed, 1, "the filter was not installed");
    (install, call)
}

fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
