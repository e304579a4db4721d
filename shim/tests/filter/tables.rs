//! Every number, against a list of all calls of the kernel that a person can read: `x86_64.txt`, `aarch64.txt`.

use std::collections::HashMap;

use job_shim::filter::Filter;
use job_shim::filter::calls::Arch;
use job_shim::filter::rules::{DEFAULT_RULES, STRICT_RULES};
use job_shim::filter::shim;
use job_shim::filter::tree::{Mode, Program, Rules, Table, Verdict};

use crate::interpreter::{Call, run};

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
const EAFNOSUPPORT: u32 = libc::SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT as u32;

const ARCHES: [(Arch, u32, &str); 2] = [
    (Arch::X86_64, 0xc000_003e, include_str!("x86_64.txt")),
    (Arch::Aarch64, 0xc000_00b7, include_str!("aarch64.txt")),
];
/// The filters of jobs with their column.
const FILTERS: [(&Rules, usize); 2] = [(&DEFAULT_RULES, 2), (&STRICT_RULES, 3)];
const SHIM: (&Rules, usize) = (&shim::RULES, 4);

/// A row's fields by its number.
fn rows(text: &str) -> HashMap<u32, Vec<&str>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let fields = lines.map(|line| line.split(' ').collect::<Vec<_>>());
    fields.map(|fields| (fields[0].parse().unwrap(), fields)).collect()
}

fn number(rows: &HashMap<u32, Vec<&str>>, name: &str) -> Option<u32> {
    rows.iter().find(|(_, row)| row[1] == name).map(|(number, _)| *number)
}

fn program(rules: &Rules, arch: Arch, mode: Mode) -> Program {
    Program::new(&Table::new(rules, arch), mode)
}

#[test]
fn every_number_has_the_verdict_of_the_list_on_both_architectures() {
    for (arch, audit, text) in ARCHES {
        let rows = rows(text);
        for (rules, column) in FILTERS.into_iter().chain([SHIM]) {
            let unknown = if column == SHIM.1 { EPERM } else { ENOSYS };
            let program = program(rules, arch, Mode::Enforce);
            let x32 = 0x4000_0000;
            for number in (0..=1024).chain(x32..=x32 + 1024).chain([0x7fff_ffff, u32::MAX]) {
                let call = Call { number, arch: audit, ..Call::default() };
                let (answer, _) = run(program.instructions(), call);
                let row = rows.get(&number);
                let wanted = match row.map_or("unknown", |row| row[column]) {
                    "unknown" => unknown,
                    "allow" => ALLOW,
                    "EPERM" => EPERM,
                    "ENOSYS" => ENOSYS,
                    "argument" => continue,
                    other => panic!("{other}: no verdict"),
                };
                assert_eq!(answer, wanted, "{arch:?}, column {column}: {number} {row:?}");
            }
        }
    }
}

#[test]
fn a_call_of_another_instruction_set_kills_whatever_its_number() {
    const I386: u32 = 0x4000_0003;
    const ARM: u32 = 0x4000_0028;
    for (arch, _, _) in ARCHES {
        for (rules, _) in FILTERS.into_iter().chain([SHIM]) {
            let program = program(rules, arch, Mode::Enforce);
            let others = ARCHES.map(|(_, audit, _)| audit).into_iter().chain([I386, ARM, 0]);
            for foreign in others.filter(|audit| *audit != arch.audit()) {
                for number in 0..=1024 {
                    let call = Call { number, arch: foreign, ..Call::default() };
                    assert_eq!(run(program.instructions(), call).0, KILL);
                }
            }
        }
    }
}

#[test]
fn arguments_decide_as_the_rules_say_and_their_upper_half_does_not() {
    let cases: &[(&str, usize, u64, [u32; 2])] = &[
        // Threads, fork, vfork.
        ("clone", 0, 0x003d_0f00, [ALLOW, ALLOW]),
        ("clone", 0, 0x0120_0011, [ALLOW, ALLOW]),
        ("clone", 0, 0x4111, [ALLOW, ALLOW]),
        // CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
        ("clone", 0, 0x0002_0011, [EPERM, EPERM]),
        ("clone", 0, 0x0200_0011, [EPERM, EPERM]),
        ("clone", 0, 0x0400_0011, [EPERM, EPERM]),
        ("clone", 0, 0x0800_0011, [EPERM, EPERM]),
        ("clone", 0, 0x1000_0011, [EPERM, EPERM]),
        ("clone", 0, 0x2000_0011, [EPERM, EPERM]),
        ("clone", 0, 0x4000_0011, [EPERM, EPERM]),
        ("ioctl", 1, 0x5401, [ALLOW, ALLOW]), // TCGETS
        ("ioctl", 1, 0x5412, [EPERM, EPERM]), // TIOCSTI
        ("ioctl", 1, 0x541c, [EPERM, EPERM]), // TIOCLINUX
        ("ioctl", 1, 0x5423, [ALLOW, EPERM]), // TIOCSETD
        // FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR.
        ("ioctl", 1, 0x8008_6601, [ALLOW, ALLOW]),
        ("ioctl", 1, 0x4008_6602, [EPERM, EPERM]),
        ("ioctl", 1, 0x801c_581f, [ALLOW, ALLOW]),
        ("ioctl", 1, 0x401c_5820, [EPERM, EPERM]),
        // AF_UNIX, INET, INET6, NETLINK, PACKET, ALG, VSOCK, XDP.
        ("socket", 0, 1, [ALLOW, ALLOW]),
        ("socket", 0, 2, [ALLOW, ALLOW]),
        ("socket", 0, 10, [ALLOW, ALLOW]),
        ("socket", 0, 16, [ALLOW, EAFNOSUPPORT]),
        ("socket", 0, 0, [EAFNOSUPPORT, EAFNOSUPPORT]),
        ("socket", 0, 17, [EAFNOSUPPORT, EAFNOSUPPORT]),
        ("socket", 0, 38, [EAFNOSUPPORT, EAFNOSUPPORT]),
        ("socket", 0, 40, [EAFNOSUPPORT, EAFNOSUPPORT]),
        ("socket", 0, 44, [EAFNOSUPPORT, EAFNOSUPPORT]),
        ("socketpair", 0, 1, [ALLOW, ALLOW]),
        ("socketpair", 0, 30, [EAFNOSUPPORT, EAFNOSUPPORT]), // TIPC
        ("personality", 0, 0, [ALLOW, ALLOW]),
        ("personality", 0, 0xffff_ffff, [ALLOW, ALLOW]),
        ("personality", 0, 0x0004_0000, [ALLOW, EPERM]), // ADDR_NO_RANDOMIZE
        ("mknod", 1, 0o010_644, [ALLOW, ALLOW]),         // a FIFO
        ("mknod", 1, 0o100_644, [ALLOW, ALLOW]),
        ("mknod", 1, 0o644, [ALLOW, ALLOW]),
        ("mknod", 1, 0o020_644, [ALLOW, EPERM]), // a character device
        ("mknod", 1, 0o060_644, [ALLOW, EPERM]), // a block device
        ("mknodat", 2, 0o010_644, [ALLOW, ALLOW]),
        ("mknodat", 2, 0o020_644, [ALLOW, EPERM]),
        ("mknodat", 2, 0o060_644, [ALLOW, EPERM]),
    ];
    for (arch, audit, text) in ARCHES {
        let rows = rows(text);
        for (name, argument, value, wanted) in cases {
            let Some(number) = number(&rows, name) else { continue };
            for ((rules, column), wanted) in FILTERS.into_iter().zip(wanted) {
                let program = program(rules, arch, Mode::Enforce);
                for upper in [0, 1 << 32, u64::MAX << 32] {
                    // What the other arguments are is of no account.
                    let mut arguments = [0x1400_5412_5412_5412; 6];
                    arguments[*argument] = upper | value;
                    let answer =
                        run(program.instructions(), Call { number, arch: audit, arguments }).0;
                    assert_eq!(answer, *wanted, "{arch:?}, column {column}: {name} {value:#x}");
                }
            }
        }
    }
}

#[test]
fn the_shim_maps_no_code_and_has_two_ioctls() {
    let cases: &[(&str, usize, u64, u32)] = &[
        ("mmap", 2, 3, ALLOW),
        ("mmap", 2, 4, EPERM),
        ("mmap", 2, 7, EPERM),
        ("mprotect", 2, 1, ALLOW),
        ("mprotect", 2, 5, EPERM),
        ("ioctl", 1, 0x5421, ALLOW), // FIONBIO
        ("ioctl", 1, 0x541b, ALLOW), // FIONREAD
        ("ioctl", 1, 0x5412, EPERM), // TIOCSTI
        ("ioctl", 1, 0, EPERM),
        ("fcntl", 1, 1, ALLOW), // F_GETFD
        ("fcntl", 1, 0, EPERM), // F_DUPFD
        ("fcntl", 1, 4, EPERM), // F_SETFL
    ];
    for (arch, audit, text) in ARCHES {
        let program = program(&shim::RULES, arch, Mode::Enforce);
        let rows = rows(text);
        for (name, argument, value, wanted) in cases {
            let mut arguments = [0; 6];
            arguments[*argument] = *value;
            let number = number(&rows, name).unwrap();
            let answer = run(program.instructions(), Call { number, arch: audit, arguments }).0;
            assert_eq!(answer, *wanted, "{arch:?}: {name} {value:#x}");
        }
    }
}

#[test]
fn the_filter_that_logs_refuses_nothing_and_logs_what_the_other_refuses() {
    for (arch, audit, _) in ARCHES {
        for (rules, _) in FILTERS {
            let (enforce, log) =
                (program(rules, arch, Mode::Enforce), program(rules, arch, Mode::Log));
            for audit in [audit, 0x4000_0003] {
                for number in 0..=1024 {
                    let call = Call { number, arch: audit, arguments: [0x5412; 6] };
                    let logged = match run(enforce.instructions(), call).0 {
                        ALLOW => ALLOW,
                        _ => libc::SECCOMP_RET_LOG,
                    };
                    assert_eq!(run(log.instructions(), call).0, logged, "{number}");
                }
            }
        }
    }
}

#[test]
fn a_filter_is_as_small_as_a_tree() {
    for (filter, most, deepest) in [(Filter::Default, 110, 16), (Filter::Strict, 160, 18)] {
        for log in [false, true] {
            let program = filter.program(log).unwrap();
            let steps = (0..=1024).map(|number| {
                run(program, Call { number, arch: Arch::NATIVE.audit(), ..Call::default() }).1
            });
            let steps = steps.max().unwrap();
            eprintln!("{filter:?}: {} instructions, {steps} at the most for a call", program.len());
            assert!(program.len() <= most && steps <= deepest);
        }
    }
}

#[test]
fn the_manual_has_a_row_for_each_group_of_refusals() {
    let manual = include_str!("../../../docs/ISOLATION.md");
    for (column, group) in STRICT_RULES
        .groups
        .iter()
        .enumerate()
        .flat_map(|(only_strict, groups)| groups.iter().map(move |group| (only_strict, group)))
    {
        let names: Vec<_> = group.calls.iter().map(|call| format!("`{}`", call.name)).collect();
        let errno = match group.verdict {
            Verdict::Enosys => "ENOSYS",
            _ => "EPERM",
        };
        let default = if column == 0 { format!(" {errno} ") } else { " ".into() };
        let row = format!("| {} | {} |{default}| {errno} |", group.what, names.join(", "));
        assert!(manual.contains(&row), "docs/ISOLATION.md lacks: {row}");
    }
    for check in STRICT_RULES.checks {
        assert!(manual.contains(&format!("`{}`", check.call.name)), "{}", check.call.name);
    }
}
