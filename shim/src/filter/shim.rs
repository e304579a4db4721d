//! What a shim itself may call once it has given up root and waits for GO. The list is what its loop and its end need,
//! in musl's form and in glibc's; it must grow with them, and with nothing else.
//!
//! Everything else is EPERM: a shim that were killed for a call that somebody forgot here would lose its job's end.

use super::calls::*;
use super::tree::{Check, Group, Listed, Rules, Verdict};

/// Nothing that opens a file, makes a socket or a process, executes, traces, or maps code.
const ALLOWED: &[Group] = &[
    allowed(
        "logs, pipes, records, the files of its cgroup: all open since before",
        &[
            SYS_read,
            SYS_write,
            SYS_pread64,
            SYS_pwrite64,
            SYS_lseek,
            SYS_ftruncate,
            SYS_fdatasync,
            SYS_fstatfs,
            SYS_close,
            // The standard library asks for a file's size before it reads all of it.
            SYS_fstat,
            SYS_statx,
        ],
    ),
    // A clock is read by a call where the kernel has no vDSO, or its clock source is no counter of the CPU.
    allowed("waiting", &[SYS_poll, SYS_ppoll, SYS_timerfd_settime, SYS_clock_gettime]),
    allowed("its brokers", &[SYS_accept4, SYS_getsockopt, SYS_sendto, SYS_recvfrom]),
    allowed("its job", &[SYS_pidfd_open, SYS_pidfd_send_signal, SYS_kill, SYS_wait4, SYS_waitid]),
    allowed("memory", &[SYS_brk, SYS_mremap, SYS_munmap, SYS_madvise]),
    // After SIGSTOP and SIGCONT the kernel lets a poll(2) go on by restart_syscall(2).
    allowed("its end", &[SYS_exit, SYS_exit_group, SYS_sigaltstack, SYS_restart_syscall]),
    // A panic, and the crash points of development builds.
    allowed(
        "abort(3) and raise(3)",
        &[SYS_getpid, SYS_gettid, SYS_tkill, SYS_tgkill, SYS_rt_sigprocmask, SYS_rt_sigaction],
    ),
];

const fn allowed(what: &'static str, calls: &'static [Call]) -> Group {
    Group { what, calls, verdict: Verdict::Allow }
}

const PROT_EXEC: u32 = 4;
const FIONREAD: u32 = 0x541b;
const FIONBIO: u32 = 0x5421;
/// Development builds look at each descriptor before they close it.
const F_GETFD: u32 = 1;

/// No new code.
const MEMORY: Check = Check {
    call: SYS_mmap,
    argument: 2,
    mask: PROT_EXEC,
    values: &[0],
    listed: Listed::Allowed,
    errno: libc::EPERM as u16,
};

const CHECKS: &[Check] = &[
    MEMORY,
    Check { call: SYS_mprotect, ..MEMORY },
    Check { call: SYS_ioctl, argument: 1, mask: u32::MAX, values: &[FIONBIO, FIONREAD], ..MEMORY },
    Check { call: SYS_fcntl, argument: 1, mask: u32::MAX, values: &[F_GETFD], ..MEMORY },
];

/// The shim's filter.
pub const RULES: Rules =
    Rules { groups: &[ALLOWED], checks: CHECKS, otherwise: Verdict::Eperm, newer: Verdict::Eperm };
