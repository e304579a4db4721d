//! The kernel calls that neither the standard library nor `nix` has in a safe form, and all of
//! this program's unsafe code.
#![allow(unsafe_code, reason = "this is the one room for it")]

pub(crate) mod landlock;
pub(crate) mod mount;

use std::ffi::{CStr, CString, c_char, c_int, c_long};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use job_shim::launch::Rlimit;
use nix::errno::Errno;
use nix::unistd::Pid;

type Result<T> = nix::Result<T>;

/// Takes the ownership of descriptors that the process was born with, and marks each close-on-exec.
///
/// # Errors
/// EBADF where one of them does not exist.
pub(crate) fn inherited<const N: usize>(numbers: [RawFd; N]) -> Result<[OwnedFd; N]> {
    for fd in numbers {
        // SAFETY: fcntl(2) with F_SETFD touches no memory.
        Errno::result(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    }
    // SAFETY: each is open, as fcntl has shown, and nothing has run in this process yet that could
    // own one: `program::run` calls this once, before it opens anything.
    Ok(numbers.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Takes the ownership of a descriptor that the process may have been born with, and marks it close-on-exec.
pub(crate) fn inherited_if_open(number: RawFd) -> Option<OwnedFd> {
    inherited([number]).ok().map(|[fd]| fd)
}

/// close_range(2) from `first` to the end. Nothing above it may be owned by an [`OwnedFd`] that is
/// still going to be used or dropped: before the first is made, or in a child that only execs.
///
/// # Errors
/// ENOSYS before Linux 5.9.
pub(crate) fn close_from(first: RawFd) -> Result<()> {
    let arguments = [c_long::from(first), c_long::from(u32::MAX), 0];
    // SAFETY: touches no memory; the caller keeps to the rule on ownership above.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, arguments[0], arguments[1], arguments[2]) };
    Errno::result(result).map(drop)
}

/// dup3(2) onto a number of the caller's choice; what was there is closed.
///
/// # Errors
/// EINVAL where `fd` is that number already.
pub(crate) fn place(fd: BorrowedFd<'_>, at: RawFd, flags: c_int) -> Result<()> {
    // SAFETY: touches no memory. Only the child calls it, whose descriptor table is a copy that
    // nobody but its exec looks at.
    Errno::result(unsafe { libc::dup3(fd.as_raw_fd(), at, flags) }).map(drop)
}

/// clone(2); libc's constant is of a type that cannot hold it.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Which side of [`clone_into_cgroup`] this is.
pub(crate) enum Cloned {
    /// The new process.
    Child,
    /// The old one: the child's pid and pidfd (close-on-exec).
    Parent(Pid, OwnedFd),
}

/// clone3(2) with CLONE_INTO_CGROUP and CLONE_PIDFD: the child is never outside of its limits.
///
/// The child's idea of its own thread id (libc's, for raise(3) and abort(3)) stays the parent's:
/// it must not panic.
///
/// # Errors
/// EAGAIN: `pids.max`; EBUSY: the cgroup has controllers enabled for children; ENOENT: it is
/// removed.
pub(crate) fn clone_into_cgroup(cgroup: BorrowedFd<'_>) -> Result<Cloned> {
    let mut pidfd: RawFd = -1;
    // SAFETY: plain integers, for which all zeros is a value.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = (libc::CLONE_PIDFD as u64) | CLONE_INTO_CGROUP;
    arguments.pidfd = (&raw mut pidfd) as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.cgroup = cgroup.as_raw_fd() as u64;
    // SAFETY: without CLONE_VM the child gets a copy of this single-threaded process and goes on
    // here on its copy of the stack, as with fork(2). `arguments` and `pidfd` outlive the call.
    let result = unsafe {
        libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>())
    };
    match Errno::result(result)? {
        0 => Ok(Cloned::Child),
        pid => {
            // SAFETY: the kernel has just made this descriptor for us and for nobody else.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent(Pid::from_raw(pid as libc::pid_t), pidfd))
        }
    }
}

/// waitpid(2): the status as the kernel gives it, which `nix` cannot express for the real-time
/// signals; `None` while a child that is not waited for (`block` false) runs.
///
/// # Errors
/// ECHILD.
pub(crate) fn wait(pid: Pid, block: bool) -> Result<Option<i32>> {
    let mut status = 0;
    let flags = if block { 0 } else { libc::WNOHANG };
    loop {
        // SAFETY: `status` outlives the call.
        match Errno::result(unsafe { libc::waitpid(pid.as_raw(), &raw mut status, flags) }) {
            Err(Errno::EINTR) => {}
            result => return result.map(|pid| (pid != 0).then_some(status)),
        }
    }
}

/// A child that has ended and is not reaped yet, waitid(2).
pub(crate) fn ended_child() -> Option<Pid> {
    // SAFETY: plain integers, for which all zeros is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` outlives the call.
    let result = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, flags) };
    // SAFETY: waitid(2) fills this field, with 0 where there is no such child.
    let pid = unsafe { info.si_pid() };
    (result == 0 && pid != 0).then_some(Pid::from_raw(pid))
}

/// kill(2) with any number; the enumeration of `nix` ends before the real-time signals.
///
/// # Errors
/// ESRCH, EPERM, EINVAL.
pub(crate) fn kill(target: i32, signal: i32) -> Result<()> {
    // SAFETY: touches no memory.
    Errno::result(unsafe { libc::kill(target, signal) }).map(drop)
}

/// A descriptor of a process, pidfd_open(2); close-on-exec.
///
/// # Errors
/// ESRCH when there is no such process; EMFILE.
pub(crate) fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: touches no memory.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Sends a signal to exactly the process of a pidfd, pidfd_send_signal(2), as kill(2) would.
///
/// # Errors
/// ESRCH when it has been reaped; EPERM, EINVAL.
pub(crate) fn pidfd_signal(pidfd: &OwnedFd, signal: i32) -> Result<()> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo means that of kill(2).
    let sent =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0) };
    Errno::result(sent).map(drop)
}

/// keyctl(2): a new, empty session keyring, so that the broker's cannot be looked into.
///
/// # Errors
/// ENOSYS where the kernel has no keyrings, EPERM where a seccomp filter forbids them.
pub(crate) fn join_new_session_keyring() -> Result<()> {
    // SAFETY: a null name asks for an anonymous keyring; touches no memory.
    let result = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            c_long::from(libc::KEYCTL_JOIN_SESSION_KEYRING),
            std::ptr::null::<c_char>(),
        )
    };
    Errno::result(result).map(drop)
}

/// prctl(PR_CAPBSET_DROP).
///
/// # Errors
/// EINVAL: there is no such capability; EPERM without CAP_SETPCAP.
pub(crate) fn drop_from_bounding_set(capability: u32) -> Result<()> {
    // SAFETY: touches no memory.
    let result =
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) };
    Errno::result(result).map(drop)
}

/// What the signals of [`disposition`] do.
#[derive(Clone, Copy)]
pub(crate) enum Disposition {
    /// SIG_DFL.
    Default = 0,
    /// SIG_IGN.
    Ignore = 1,
}

/// rt_sigaction(2) itself: libc's function hides the signals that it keeps for itself, but a
/// process may have been born with them ignored.
///
/// # Errors
/// EINVAL for SIGKILL and SIGSTOP.
pub(crate) fn disposition(signal: c_int, what: Disposition) -> Result<()> {
    // The kernel's `struct sigaction`: handler, flags, restorer, mask of 64 bits. On those
    // architectures that have no restorer the last word is not looked at.
    let action = [what as usize as u64, 0, 0, 0];
    // SAFETY: `action` has at least the size of the kernel's structure and outlives the call, and
    // neither of the two handlers is a function.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            c_long::from(signal),
            action.as_ptr(),
            std::ptr::null::<u64>(),
            8_usize,
        )
    };
    Errno::result(result).map(drop)
}

/// prlimit(2) on this process: it takes any number, and `u64::MAX` as RLIM_INFINITY, whatever the
/// C library's own types are.
///
/// # Errors
/// EPERM above the hard limit without CAP_SYS_RESOURCE; EINVAL for soft above hard, or no such
/// resource.
pub(crate) fn limit_resource(limit: &Rlimit) -> Result<()> {
    // The kernel's `struct rlimit64`.
    let wanted = [limit.soft, limit.hard];
    // SAFETY: `wanted` has the kernel's layout and outlives the call; the old limit is not asked
    // for.
    let result = unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0 as c_long,
            c_long::from(limit.resource),
            wanted.as_ptr(),
            std::ptr::null::<u64>(),
        )
    };
    Errno::result(result).map(drop)
}

/// ioctl(FIONREAD): the bytes that wait in a pipe.
///
/// # Errors
/// ENOTTY where it is none.
pub(crate) fn waiting_bytes(pipe: BorrowedFd<'_>) -> Result<usize> {
    let mut count: c_int = 0;
    // SAFETY: FIONREAD writes one int, which outlives the call.
    let result = unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD as _, &raw mut count) };
    Errno::result(result).map(|_| usize::try_from(count).unwrap_or(0))
}

/// poll(2) until something happens. A negative descriptor is an empty slot.
///
/// # Errors
/// Never EINTR.
pub(crate) fn poll(slots: &mut [libc::pollfd], timeout_ms: c_int) -> Result<usize> {
    loop {
        let count = slots.len() as libc::nfds_t;
        // SAFETY: pointer and count are those of one exclusively borrowed slice.
        match Errno::result(unsafe { libc::poll(slots.as_mut_ptr(), count, timeout_ms) }) {
            Err(Errno::EINTR) => {}
            result => return result.map(|ready| ready as usize),
        }
    }
}

/// A vector of C strings as execve(2) wants it, made before the clone so that the child need not
/// allocate.
pub(crate) struct Strings {
    pointers: Vec<*const c_char>,
    /// What the pointers point to.
    _strings: Vec<CString>,
}

impl From<Vec<CString>> for Strings {
    fn from(strings: Vec<CString>) -> Strings {
        let ends = std::iter::once(std::ptr::null());
        Strings {
            pointers: strings.iter().map(|s| s.as_ptr()).chain(ends).collect(),
            _strings: strings,
        }
    }
}

/// execve(2). Returns only when it failed, and why.
pub(crate) fn exec(path: &CStr, argv: &Strings, env: &Strings) -> Errno {
    // SAFETY: both vectors end with a null pointer, and their strings live in the same values.
    unsafe { libc::execve(path.as_ptr(), argv.pointers.as_ptr(), env.pointers.as_ptr()) };
    Errno::last()
}

/// execveat(2) of exactly the file of a descriptor. Returns only when it failed, and why.
pub(crate) fn exec_descriptor(program: RawFd, argv: &Strings, env: &Strings) -> Errno {
    // SAFETY: as in `exec`; the path is an empty string.
    unsafe {
        let (argv, env) = (argv.pointers.as_ptr(), env.pointers.as_ptr());
        libc::syscall(libc::SYS_execveat, program, c"".as_ptr(), argv, env, libc::AT_EMPTY_PATH)
    };
    Errno::last()
}

/// write(2) to a descriptor by its number, in a child that owns none. It can only fail where
/// nobody is left to be told.
pub(crate) fn write(fd: RawFd, bytes: &[u8]) {
    // SAFETY: pointer and length are those of one slice.
    unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
}

/// read(2) of one byte from a descriptor by its number; `None` at the end of file and after an
/// error.
pub(crate) fn read_byte(fd: RawFd) -> Option<u8> {
    let mut byte = 0_u8;
    loop {
        // SAFETY: one byte, which outlives the call.
        match Errno::result(unsafe { libc::read(fd, (&raw mut byte).cast(), 1) }) {
            Err(Errno::EINTR) => {}
            result => return (result == Ok(1)).then_some(byte),
        }
    }
}

/// _exit(2): no destructors, no buffers that the parent has too.
pub(crate) fn exit_now(status: c_int) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(status) }
}

/// Memory from mmap(2) that can be given back to the kernel while it stays usable.
pub(crate) struct Region {
    start: *mut u8,
    length: usize,
}

impl Region {
    /// Zeroed, and not resident before it is touched.
    ///
    /// # Errors
    /// ENOMEM.
    pub(crate) fn new(length: usize) -> Result<Region> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new anonymous mapping overlaps nothing.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        Ok(Region { start: start.cast(), length })
    }

    /// All of it.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mapped for reading and writing for as long as `self` lives, initialised by the
        // kernel with zeros, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.length) }
    }

    /// Gives the pages back; it reads as zeros afterwards.
    pub(crate) fn release(&mut self) {
        // SAFETY: private anonymous memory of ours; MADV_DONTNEED leaves it mapped, and zeros are
        // bytes like any others. A failure changes nothing but the memory's use.
        unsafe { libc::madvise(self.start.cast(), self.length, libc::MADV_DONTNEED) };
    }
}

unsafe extern "C" {
    // From the linker: where the program begins, and where its code ends.
    static __executable_start: u8;
    static etext: u8;
}

/// Takes the code out of this process's page table. What runs on comes back from the page cache
/// by itself, some pages around each that is touched; what only the start needed stays out.
pub(crate) fn release_code() {
    let start = &raw const __executable_start;
    let length = (&raw const etext).addr().saturating_sub(start.addr());
    // SAFETY: pages of a file, mapped read-only and never written: dropping them loses nothing. A
    // failure changes nothing but the memory's use.
    unsafe { libc::madvise(start.cast_mut().cast(), length, libc::MADV_DONTNEED) };
}

/// Gives back the pages of the stack that only deeper calls have used: those of the start.
#[inline(never)]
pub(crate) fn release_stack() {
    const PAGE: usize = 4096;
    /// Of the 128 KiB that execve(2) maps, 64: a multiple of the pages of every architecture.
    const LENGTH: usize = 16 * PAGE;
    /// Below what is here: the rest of this frame, and that of the call.
    const FRAMES: usize = 512;
    let here = 0_u8;
    let end = ((&raw const here).addr() - FRAMES) & !(PAGE - 1);
    let start = std::ptr::without_provenance_mut::<libc::c_void>(end - LENGTH);
    // SAFETY: a stack grows down, and nothing alive is as far below a variable of the innermost function. What is there is
    // unused, or not mapped, which is an error without an effect. No signal has a handler here.
    unsafe { libc::madvise(start, LENGTH, libc::MADV_DONTNEED) };
}
