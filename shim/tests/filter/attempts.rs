//! Every refused call is made, as root and with arguments that do no harm: with the filter it gives the filter's
//! error, and without its rule another.

use job_shim::filter::calls::{Arch, Call};
use job_shim::filter::rules::{DEFAULT_RULES, STRICT_RULES};
use job_shim::filter::tree::{Mode, Program, Rules, Table, Verdict};
use job_shim::filter::{Filter, is_available};

use crate::child::{Outcome, attempt};

/// An attempt that a filter refuses.
struct Refused {
    call: Call,
    errno: i32,
    arguments: [u64; 6],
}

/// None of these does anything, for root either: a number or a pointer is wrong in each.
fn arguments(name: &str) -> [u64; 6] {
    const BAD: u64 = u32::MAX as u64;
    match name {
        "acct" | "settimeofday" => [1, 0, 0, 0, 0, 0],
        "sethostname" | "setdomainname" => [0, BAD, 0, 0, 0, 0],
        "kexec_load" => [0, 0, 0, BAD, 0, 0],
        "kexec_file_load" => [BAD, BAD, 0, 0, BAD, 0],
        "init_module" => [0, 1, 0, 0, 0, 0],
        "syslog" | "modify_ldt" => [99, 0, 0, 0, 0, 0],
        "iopl" | "sysfs" => [99, 0, 0, 0, 0, 0],
        "ioperm" => [BAD, BAD, 1, 0, 0, 0],
        "setns" | "bpf" | "userfaultfd" | "fanotify_init" | "keyctl" | "ptrace" | "vmsplice" => {
            [BAD, 0, 0, 0, 0, 0]
        }
        "io_uring_enter" | "io_uring_register" | "finit_module" | "quotactl" | "quotactl_fd" => {
            [BAD, 0, 0, 0, 0, 0]
        }
        "fsconfig" | "fsmount" | "pidfd_getfd" | "kcmp" | "clock_settime" | "clock_adjtime" => {
            [BAD, 0, 0, 0, 0, 0]
        }
        "process_vm_readv" | "process_vm_writev" | "migrate_pages" | "move_pages" => {
            [BAD, 0, 0, 0, 0, 0]
        }
        "mbind" | "remap_file_pages" => [1, 1, 0, 0, 0, 0],
        "set_mempolicy" => [99, 0, 0, 0, 0, 0],
        _ => [0; 6],
    }
}

/// The arguments that a check refuses.
fn checked(name: &str, strict: bool) -> Vec<[u64; 6]> {
    // A thread that shares no signal handlers: EINVAL, whatever else it asks for.
    let clone = |flags: u64| [flags | 0x0001_0000, 0, 0, 0, 0, 0];
    let ioctl = |command| [u64::from(u32::MAX), command, 0, 0, 0, 0];
    let family = |family| [family, 3, 0, 0, 0, 0];
    match name {
        "clone" => [17, 25, 26, 27, 28, 29, 30].map(|bit| clone(1 << bit)).to_vec(),
        "ioctl" if strict => [0x5412, 0x541c, 0x5423, 0x4008_6602, 0x401c_5820].map(ioctl).to_vec(),
        "ioctl" => [0x5412, 0x541c, 0x4008_6602, 0x401c_5820].map(ioctl).to_vec(),
        // AF_PACKET: of those that are refused the one that root has on every kernel.
        "socket" if strict => [16, 17].map(family).to_vec(),
        "socket" => vec![family(17)],
        "socketpair" if strict => [16, 17].map(family).to_vec(),
        "socketpair" => vec![family(17)],
        "personality" => vec![[0x0004_0000, 0, 0, 0, 0, 0]],
        "mknod" => [0o020_644, 0o060_644].map(|mode| [0, mode, 0, 0, 0, 0]).to_vec(),
        "mknodat" => [0o020_644, 0o060_644].map(|mode| [0, 0, mode, 0, 0, 0]).to_vec(),
        other => panic!("no attempt for {other}"),
    }
}

fn refused(rules: &Rules, strict: bool) -> Vec<Refused> {
    let by_name = rules.groups.iter().copied().flatten().flat_map(|refusal| {
        let errno = match refusal.verdict {
            Verdict::Eperm => libc::EPERM,
            Verdict::Enosys => libc::ENOSYS,
            Verdict::Allow => panic!("{}: no refusal", refusal.what),
        };
        let calls = refusal.calls.iter();
        calls.map(move |call| Refused { call: *call, errno, arguments: arguments(call.name) })
    });
    let by_argument = rules.checks.iter().flat_map(|check| {
        let (call, errno) = (check.call, i32::from(check.errno));
        let all = checked(call.name, strict).into_iter();
        all.map(move |arguments| Refused { call, errno, arguments })
    });
    let all = by_name.chain(by_argument);
    all.filter(|refused| refused.call.number(Arch::NATIVE).is_some()).collect()
}

/// Vhangup(2) is for the session's terminal: the child has a session of its own, and none.
fn prepare() {
    let _ = nix::unistd::setsid();
}

fn make(program: Option<&Program>, refused: &Refused) -> Outcome {
    let number = refused.call.number(Arch::NATIVE).unwrap();
    let [a, b, c, d, e, f] = refused.arguments;
    let call = [u64::from(number), a, b, c, d, e, f];
    attempt(program.map(Program::instructions), prepare, call)
}

fn filters_are_there() -> bool {
    let there = is_available();
    if !there {
        eprintln!("skipped: this kernel has no system-call filters");
    }
    there
}

#[test]
fn every_refused_call_gives_the_errno_of_its_rule_and_another_without_the_rule() {
    if !filters_are_there() {
        return;
    }
    let root = nix::unistd::geteuid().is_root();
    for (rules, strict) in [(&DEFAULT_RULES, false), (&STRICT_RULES, true)] {
        let table = Table::new(rules, Arch::NATIVE);
        let whole = Program::new(&table, Mode::Enforce);
        let log = Program::new(&table, Mode::Log);
        let mut untold = Vec::new();
        for refused in refused(rules, strict) {
            let (name, arguments) = (refused.call.name, refused.arguments);
            let with = make(Some(&whole), &refused);
            assert_eq!(with, Outcome::Errno(refused.errno), "{name} {arguments:x?}");
            let unfiltered = make(None, &refused);
            if unfiltered == with {
                untold.push(name);
                continue;
            }
            let without = Program::new(&table.clone().without(&refused.call), Mode::Enforce);
            let outcome = make(Some(&without), &refused);
            assert_ne!(outcome, with, "{name} {arguments:x?}: not by this rule");
            assert_ne!(make(Some(&log), &refused), with, "{name} {arguments:x?}: in spite of log");
        }
        eprintln!("strict {strict}: the kernel itself answers as the filter to {untold:?}");
        // A capability, a setting or a part of the kernel may be missing; most of it is there.
        assert!(!root || untold.len() <= 6, "{untold:?}");
    }
}

#[test]
fn int_0x80_kills_the_process() {
    if !cfg!(target_arch = "x86_64") || !filters_are_there() {
        return;
    }
    let call = [crate::child::INT_80, 0, 0, 0, 0, 0, 0];
    // User-mode Linux takes the gate for its own, with its own numbers: no pid.
    if !matches!(attempt(None, prepare, call), Outcome::Value(pid) if pid > 0) {
        eprintln!("skipped: this kernel has no 32-bit calls");
        return;
    }
    for filter in [Filter::Default, Filter::Strict] {
        let with = attempt(filter.program(false), prepare, call);
        assert_eq!(with, Outcome::Killed(libc::SIGSYS));
        let log = attempt(filter.program(true), prepare, call);
        assert!(matches!(log, Outcome::Value(_)), "{log:?}");
    }
}

#[test]
fn a_number_of_x32_or_past_the_table_is_no_call() {
    if !filters_are_there() {
        return;
    }
    for filter in [Filter::Default, Filter::Strict] {
        for number in [0x4000_0027, 0x4000_0200, 470, 1024] {
            let outcome = attempt(filter.program(false), prepare, [number, 0, 0, 0, 0, 0, 0]);
            assert_eq!(outcome, Outcome::Errno(libc::ENOSYS), "{number:#x}");
        }
    }
}

#[test]
fn a_filter_cannot_be_taken_back() {
    if !filters_are_there() {
        return;
    }
    let number = |value: i64| u64::try_from(value).unwrap();
    const OFF: u64 = 0;
    let call = [number(libc::SYS_prctl), number(libc::PR_SET_SECCOMP.into()), OFF, 0, 0, 0, 0];
    let outcome = attempt(Filter::Default.program(false), prepare, call);
    assert_eq!(outcome, Outcome::Errno(libc::EINVAL));
}
