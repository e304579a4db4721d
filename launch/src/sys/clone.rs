//! clone3(2) into a cgroup, and execveat(2), with vfork(2)'s price. The child must touch nothing but what it is handed.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use libc::{c_char, c_int, c_void};

/// A program to spawn into a cgroup with exactly these descriptors.
#[derive(Debug)]
pub struct SpawnRequest<'a> {
    /// Opened when the broker starts, so that an upgrade on disk does not mix versions.
    pub program: BorrowedFd<'a>,
    /// Its arguments, `argv[0]` included.
    pub argv: &'a [&'a CStr],
    /// They become its descriptors 0, 1, 2, ...; the program has no others. [`NO_DESCRIPTOR`] leaves a number out.
    pub descriptors: &'a [RawFd],
    /// Makes it process 1 of a new pid namespace.
    pub new_pid_namespace: bool,
    /// A cgroup v2 directory. The program is in it from the beginning (CLONE_INTO_CGROUP).
    pub cgroup: BorrowedFd<'a>,
}

/// A child and its pidfd.
#[derive(Debug)]
pub struct Child {
    /// The pid in the broker's pid namespace.
    pub pid: u32,
    /// Readable when the child has ended.
    pub pidfd: OwnedFd,
}

/// A number that stays free.
pub(crate) const NO_DESCRIPTOR: RawFd = -1;
/// The most descriptors and arguments of a [`SpawnRequest`].
const MAX_DESCRIPTORS: usize = 38;
/// The size of the child's stack until execveat(2): many times what it needs.
const STACK: usize = 64 * 1024;

/// Arguments for [`child`]. Parent and child share the memory until execveat(2), and the parent sleeps.
struct ChildArgs {
    program: RawFd,
    argv: [*const c_char; MAX_DESCRIPTORS + 1],
    envp: [*const c_char; 1],
    descriptors: [RawFd; MAX_DESCRIPTORS],
    count: usize,
    errno: c_int,
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

/// Spawns the program as vfork(2) does: parent and child share memory, so that a large broker costs nothing (fork(2)
/// with 512 MiB takes 22 ms), and this thread sleeps until the execveat(2).
///
/// # Errors
/// As clone3(2) (EAGAIN: pids.max; ENOENT: the cgroup was removed; EBUSY: the cgroup has controllers
/// enabled for its children) or execveat(2).
pub fn spawn(request: &SpawnRequest<'_>) -> io::Result<Child> {
    assert!(
        request.argv.len() <= MAX_DESCRIPTORS && request.descriptors.len() <= MAX_DESCRIPTORS,
        "a fixed, small request"
    );
    let mut shared = ChildArgs {
        program: request.program.as_raw_fd(),
        argv: [ptr::null(); MAX_DESCRIPTORS + 1],
        envp: [ptr::null()],
        descriptors: [-1; MAX_DESCRIPTORS],
        count: request.descriptors.len(),
        errno: 0,
    };
    for (slot, arg) in shared.argv.iter_mut().zip(request.argv) {
        *slot = arg.as_ptr();
    }
    shared.descriptors[..shared.count].copy_from_slice(request.descriptors);

    let mut stack = Vec::<u8>::with_capacity(STACK);
    let mut pidfd: c_int = -1;
    let args = CloneArgs {
        flags: libc::CLONE_VM as u64
            | libc::CLONE_VFORK as u64
            | libc::CLONE_PIDFD as u64
            | if request.new_pid_namespace { libc::CLONE_NEWPID as u64 } else { 0 }
            | CLONE_CLEAR_SIGHAND
            | CLONE_INTO_CGROUP,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        stack: stack.as_mut_ptr() as u64,
        // The psABI requires 16-byte alignment; the end of the allocation may have less.
        stack_size: (STACK - stack.as_ptr() as usize % 16) as u64,
        cgroup: request.cgroup.as_raw_fd() as u64,
        ..CloneArgs::default()
    };
    // SAFETY: `args` is complete. The child runs on its own stack and accesses only `shared`; both outlive the
    // child's use of them, since this thread sleeps. The child makes only system calls and never returns.
    // Signals are blocked, so that no handler runs in the child.
    let pid = unsafe { with_signals_blocked(|| clone3(&args, (&raw mut shared).cast())) };
    if pid < 0 {
        return Err(io::Error::from_raw_os_error(-pid as i32));
    }
    // SAFETY: clone3 has succeeded, so the kernel has stored a new descriptor here.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    if shared.errno != 0 {
        pidfd_reap_blocking(&pidfd);
        return Err(io::Error::from_raw_os_error(shared.errno));
    }
    Ok(Child { pid: pid as u32, pidfd })
}

/// Waits for the end of a child that has been told to end, and reaps it.
pub(super) fn pidfd_reap_blocking(pidfd: &OwnedFd) {
    let mut info = MaybeUninit::<libc::siginfo_t>::uninit();
    // SAFETY: `info` is memory for the kernel to write; the child has called _exit(2) or was killed.
    unsafe {
        libc::waitid(libc::P_PIDFD, pidfd.as_raw_fd() as u32, info.as_mut_ptr(), libc::WEXITED);
    }
}

/// Runs `action` with every signal blocked in this thread.
pub(super) unsafe fn with_signals_blocked(action: impl FnOnce() -> isize) -> isize {
    let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: both sets are local variables, written before they are read.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), before.as_mut_ptr());
    }
    let result = action();
    // SAFETY: `before` was filled by the call above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    result
}

/// In the child: moves the descriptors to their numbers and executes the program.
extern "C" fn child(shared: *mut c_void) -> ! {
    // SAFETY: `shared` is the parent's `ChildArgs`, which lives until this process has exec'ed or
    // exited, since the parent sleeps. Only async-signal-safe calls are made (signal-safety(7)).
    unsafe {
        let shared = &mut *shared.cast::<ChildArgs>();
        // Usually no descriptor is in the way, and nothing is duplicated.
        for slot in 0..shared.count {
            shared.descriptors[slot] = move_out_of_the_way(shared, shared.descriptors[slot]);
        }
        let program = move_out_of_the_way(shared, shared.program);
        for place in 0..shared.count {
            let fd = shared.descriptors[place];
            if fd != NO_DESCRIPTOR && libc::dup2(fd, place as c_int) < 0 {
                fail(shared);
            }
        }
        let mut none = MaybeUninit::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
        let (argv, envp) = (shared.argv.as_ptr(), shared.envp.as_ptr());
        libc::syscall(libc::SYS_execveat, program, c"".as_ptr(), argv, envp, libc::AT_EMPTY_PATH);
        fail(shared)
    }
}

/// Duplicates a descriptor to a number that dup2(2) does not overwrite, where it has one of those. As low as can be,
/// since fcntl(2) rejects a number that RLIMIT_NOFILE does not allow.
unsafe fn move_out_of_the_way(shared: &mut ChildArgs, fd: RawFd) -> RawFd {
    let first_free = shared.count as RawFd;
    if fd >= first_free || fd == NO_DESCRIPTOR {
        return fd;
    }
    // SAFETY: async-signal-safe calls alone, as in `child`.
    unsafe {
        let moved = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, first_free);
        if moved < 0 {
            fail(shared); // reports this errno, not the EBADF that -1 would cause later
        }
        moved
    }
}

unsafe fn fail(shared: &mut ChildArgs) -> ! {
    // SAFETY: errno belongs to the parent thread, which sleeps; _exit(2) runs no handlers.
    unsafe {
        shared.errno = *libc::__errno_location();
        libc::_exit(127)
    }
}

/// clone3(2) has no wrapper in libc: the child returns from the system call on an empty stack, so no function
/// can return there. It calls [`child`] directly.
#[cfg(target_arch = "x86_64")]
unsafe fn clone3(args: &CloneArgs, shared: *mut c_void) -> isize {
    let result: isize;
    // SAFETY: see `spawn`; the registers that the system call changes are declared.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, {shared}",
            "call {child}",
            "ud2",
            "2:",
            shared = in(reg) shared,
            child = in(reg) child as extern "C" fn(*mut c_void) -> !,
            inlateout("rax") libc::SYS_clone3 as isize => result,
            in("rdi") args,
            in("rsi") size_of::<CloneArgs>(),
            out("rcx") _,
            out("r11") _,
        );
    }
    result
}

/// As above, for aarch64.
#[cfg(target_arch = "aarch64")]
unsafe fn clone3(args: &CloneArgs, shared: *mut c_void) -> isize {
    let result: isize;
    // SAFETY: see `spawn`; the registers that the system call changes are declared.
    unsafe {
        std::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, {shared}",
            "blr {child}",
            "brk 1",
            "2:",
            shared = in(reg) shared,
            child = in(reg) child as extern "C" fn(*mut c_void) -> !,
            inlateout("x0") args as *const CloneArgs as isize => result,
            in("x1") size_of::<CloneArgs>(),
            in("x8") libc::SYS_clone3,
        );
    }
    result
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    use super::*;

    /// Runs `test` in a child process with its own RLIMIT_NOFILE.
    fn in_a_child(test: impl FnOnce() -> i32) -> i32 {
        // SAFETY: the child runs nothing but `test`, which neither locks nor allocates what another
        // thread may have locked: the C library sees to malloc(3), and it exits without handlers.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork(2)");
        if pid == 0 {
            // SAFETY: as above.
            unsafe { libc::_exit(test()) };
        }
        let mut status = 0;
        // SAFETY: it is our child, and the status our memory.
        unsafe { libc::waitpid(pid, &raw mut status, 0) };
        libc::WEXITSTATUS(status)
    }

    fn limit(soft: u64) {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    }

    fn descriptors_of(path: &str) -> Vec<RawFd> {
        use std::os::fd::IntoRawFd;
        (0..8).map(|_| File::open(path).unwrap().into_raw_fd()).collect()
    }

    #[test]
    fn a_child_has_its_descriptors_whatever_rlimit_nofile_is() {
        let Some(cgroup) = own_cgroup() else { return };
        let status = in_a_child(|| {
            limit(64); // as an operator may: all numbers below 64 are in use or may be
            let all = descriptors_of("/dev/null");
            let program = File::open("/bin/true").unwrap();
            let request = SpawnRequest {
                program: program.as_fd(),
                argv: &[c"true"],
                descriptors: &all,
                new_pid_namespace: false,
                cgroup: cgroup.as_fd(),
            };
            let Ok(child) = spawn(&request) else { return 1 };
            pidfd_reap_blocking(&child.pidfd);
            0
        });
        assert_eq!(status, 0);
    }

    #[test]
    fn a_child_without_room_for_its_descriptors_says_so() {
        let Some(cgroup) = own_cgroup() else { return };
        let status = in_a_child(|| {
            let program = File::open("/bin/true").unwrap();
            limit(MAX_DESCRIPTORS as u64); // no descriptor can be duplicated out of the way
            let request = SpawnRequest {
                program: program.as_fd(),
                argv: &[c"true"],
                descriptors: &[0, 0, 0],
                new_pid_namespace: false,
                cgroup: cgroup.as_fd(),
            };
            let error = spawn(&request).map(drop).unwrap_err();
            i32::from(error.raw_os_error() == Some(libc::EBADF))
        });
        assert_eq!(status, 0);
    }

    /// The cgroup of this process, to spawn a child into.
    fn own_cgroup() -> Option<File> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root may use CLONE_INTO_CGROUP here");
            return None;
        }
        let all = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = all.lines().find_map(|line| line.strip_prefix("0::"))?;
        let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
        let mount = mounts.lines().find(|line| line.contains(" cgroup2 "))?.split(' ').nth(1)?;
        File::open(format!("{mount}{own}")).ok()
    }
}
