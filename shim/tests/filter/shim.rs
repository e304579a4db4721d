//! The shim's own filter, on real calls: as root, whom nothing else would stop.

use job_shim::filter::calls::Arch;
use job_shim::filter::is_available;
use job_shim::filter::shim::RULES;
use job_shim::filter::tree::{Mode, Program, Table};

use crate::child::{ABORT, Outcome, attempt};

fn program() -> Option<Program> {
    if !is_available() {
        eprintln!("skipped: this kernel has no system-call filters");
        return None;
    }
    Some(Program::new(&Table::new(&RULES, Arch::NATIVE), Mode::Enforce))
}

#[test]
fn a_shim_opens_makes_executes_and_traces_nothing() {
    let Some(program) = program() else { return };
    let path = c"/dev/null".as_ptr().addr() as u64;
    let directory = libc::AT_FDCWD as u64;
    let write = u64::from((libc::O_WRONLY | libc::O_CLOEXEC).unsigned_abs());
    let (inet, stream) = (libc::AF_INET as u64, libc::SOCK_STREAM as u64);
    let executable = (libc::PROT_READ | libc::PROT_EXEC) as u64;
    let anonymous = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    let none = u64::from(u32::MAX); // no descriptor
    let attempts = [
        (libc::SYS_openat, [directory, path, write, 0, 0, 0]),
        (libc::SYS_openat, [directory, path, 0, 0, 0, 0]),
        (libc::SYS_openat2, [directory, path, 0, 0, 0, 0]),
        (libc::SYS_execve, [path, 0, 0, 0, 0, 0]),
        (libc::SYS_execveat, [directory, path, 0, 0, 0, 0]),
        (libc::SYS_socket, [inet, stream, 0, 0, 0, 0]),
        (libc::SYS_clone, [libc::SIGCHLD as u64, 0, 0, 0, 0, 0]),
        (libc::SYS_clone3, [0; 6]),
        (libc::SYS_ptrace, [libc::PTRACE_TRACEME.into(), 0, 0, 0, 0, 0]),
        (libc::SYS_setresuid, [0; 6]),
        (libc::SYS_unlinkat, [directory, path, 0, 0, 0, 0]),
        (libc::SYS_memfd_create, [path, 0, 0, 0, 0, 0]),
        (libc::SYS_mount, [0; 6]),
        (libc::SYS_prctl, [libc::PR_SET_DUMPABLE as u64, 1, 0, 0, 0, 0]),
        (libc::SYS_mmap, [0, 4096, executable, anonymous, none, 0]),
    ];
    for (number, [a, b, c, d, e, f]) in attempts {
        let call = [number as u64, a, b, c, d, e, f];
        let outcome = attempt(Some(program.instructions()), || {}, call);
        assert_eq!(outcome, Outcome::Errno(libc::EPERM), "{number}");
    }
}

#[test]
fn a_shim_that_aborts_dies_of_sigabrt() {
    let Some(program) = program() else { return };
    let outcome = attempt(Some(program.instructions()), || {}, [ABORT, 0, 0, 0, 0, 0, 0]);
    assert_eq!(outcome, Outcome::Killed(libc::SIGABRT));
}
