//! The system calls that a job, and its shim, may make: filters for seccomp(2), made when this crate is built, and the
//! calls that put them in force. It must not know what else a job is isolated by, and nothing here allocates.
//!
//! [`rules`] says what a job is refused and why, [`shim`] what the shim is left; `docs/ISOLATION.md` shows it to
//! people, `docs/decisions/0052` and `0053` have the reasons for the form.

pub mod calls;
pub mod rules;
pub mod shim;
mod sys;
pub mod tree;

use libc::{c_ulong, sock_filter};
use serde::{Deserialize, Serialize};

use calls::Arch;
use tree::{Mode, Program, Rules, Table};

/// Which filter a job has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Filter {
    /// None: all that the kernel allows.
    #[default]
    None,
    /// [`rules::DEFAULT_RULES`]: without mounts, namespaces, keys, and what concerns the host.
    Default,
    /// [`rules::STRICT_RULES`]: for programs that are not trusted; also without tracing and rare calls.
    Strict,
}

/// A program of these rules for this build, as a static of exactly its size.
macro_rules! program {
    ($name:ident, $rules:expr, $mode:expr) => {
        static $name: &[sock_filter] = {
            const PROGRAM: Program = made(&$rules, $mode);
            const LENGTH: usize = PROGRAM.instructions().len();
            &const { PROGRAM.exact::<LENGTH>() }
        };
    };
}

program!(DEFAULT, rules::DEFAULT_RULES, Mode::Enforce);
program!(DEFAULT_LOG, rules::DEFAULT_RULES, Mode::Log);
program!(STRICT, rules::STRICT_RULES, Mode::Enforce);
program!(STRICT_LOG, rules::STRICT_RULES, Mode::Log);
program!(SHIM, shim::RULES, Mode::Enforce);

const fn made(rules: &Rules, mode: Mode) -> Program {
    Program::new(&Table::new(rules, Arch::NATIVE), mode)
}

impl Filter {
    /// Its program; `None` for none.
    pub fn program(self, log: bool) -> Option<&'static [sock_filter]> {
        match (self, log) {
            (Filter::None, _) => None,
            (Filter::Default, false) => Some(DEFAULT),
            (Filter::Default, true) => Some(DEFAULT_LOG),
            (Filter::Strict, false) => Some(STRICT),
            (Filter::Strict, true) => Some(STRICT_LOG),
        }
    }
}

/// Puts a filter before all later calls of this thread, and of all that it starts or executes; it cannot be taken back.
/// With `log` nothing is refused: what would have been is written to the kernel's log.
///
/// # Errors
/// As [`install_program`].
pub fn install(filter: Filter, log: bool) -> nix::Result<()> {
    filter.program(log).map_or(Ok(()), install_program)
}

/// The same for any program.
///
/// # Errors
/// EACCES before no_new_privs; EINVAL or ENOSYS where the kernel has no filters (CONFIG_SECCOMP_FILTER).
pub fn install_program(program: &[sock_filter]) -> nix::Result<()> {
    sys::set_filter(program, FLAGS)
}

/// Leaves this process, a shim, nothing but what [`shim::RULES`] allows. The kernel's log has each refusal: none is
/// expected, ever.
///
/// # Errors
/// As [`install_program`].
pub fn install_for_shim() -> nix::Result<()> {
    sys::set_filter(SHIM, FLAGS | libc::SECCOMP_FILTER_FLAG_LOG)
}

/// Before Linux 5.16 a filter without this also turns on mitigations that keep the threads of one process from reading
/// each other's memory, and slow it down. Jobs are processes.
const FLAGS: c_ulong = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;

/// Whether this kernel has what [`install`] needs.
pub fn is_available() -> bool {
    [libc::SECCOMP_RET_KILL_PROCESS, libc::SECCOMP_RET_ERRNO, libc::SECCOMP_RET_LOG]
        .into_iter()
        .all(sys::has_action)
}
