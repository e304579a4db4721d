//! System calls that lead out of a job, by their numbers: with the filter, and without it.

use std::collections::BTreeMap;

use job_tests::{Env, host};

use crate::{PROFILES, attack, env, has_python, python};

/// Each call by its number, so that no library is in the way, and what became of it.
const CALLS: &str = r#"
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(name, number, *args):
    ctypes.set_errno(0)
    args = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    result = libc.syscall(ctypes.c_long(number), *args)
    if name.startswith("clone ") and result == 0:
        os._exit(0)
    what = "succeeded" if result >= 0 else errno.errorcode[ctypes.get_errno()]
    print(f"{name}={what}", flush=True)
root, tmpfs = b"/", b"tmpfs"
call("mount", 165, tmpfs, b"/tmp", tmpfs, 0, 0)
call("umount2", 166, b"/proc", 2)
call("pivot_root", 155, b"/tmp", b"/tmp")
call("chroot", 161, b"/tmp")
namespaces = ((0x10000000, "user"), (0x20000, "mnt"), (0x40000000, "net"), (0x20000000, "pid"))
for flag, name in namespaces:
    call("clone " + name, 56, flag | 17, 0, 0, 0, 0)
for flag, name in namespaces[1:]:
    call("unshare " + name, 272, flag)
fd = os.open("/proc/self/ns/mnt", os.O_RDONLY)
call("setns", 308, fd, 0)
call("open_tree", 428, -100, root, 1)
call("fsopen", 430, tmpfs, 0)
call("mount_setattr", 442, -100, root, 0, 0, 0)
call("keyctl", 250, 0, -3, 0)
call("add_key", 248, b"user", b"x", b"y", 1, -3)
call("bpf", 321, 5, 0, 0)
call("perf_event_open", 298, 0, 0, -1, -1, 0)
call("io_uring_setup", 425, 8, b"\0" * 128)
call("userfaultfd", 323, 1)
call("process_vm_readv", 310, os.getpid(), 0, 0, 0, 0, 0)
call("pidfd_getfd", 438, 0, 0, 0)
call("kcmp", 312, os.getpid(), os.getpid(), 1, 0, 0)
call("kexec_load", 246, 0, 0, 0, 0)
call("init_module", 175, 0, 0, b"")
call("open_by_handle_at", 304, 0, 0, 0)
call("reboot", 169, 0xfee1dead, 672274793, 0, 0)
call("syslog", 103, 3, 0, 0)
call("settimeofday", 164, 0, 0)
call("sethostname", 170, b"x", 1)
call("swapon", 167, root, 0)
call("acct", 163, 0)
call("TIOCSTI", 16, 0, 0x5412, 0)
call("TIOCLINUX", 16, 0, 0x541c, 0)
call("AF_VSOCK", 41, 40, 1, 0)
call("AF_ALG", 41, 38, 5, 0)
call("AF_PACKET", 41, 17, 3, 0)
call("x32 getpid", 0x40000000 + 39)
call("clone3", 435, 0, 0)
call("unshare user", 272, 0x10000000)
if libc.syscall(ctypes.c_long(272), ctypes.c_long(0x20000)) == 0:
    call("mount in a user namespace", 165, tmpfs, b"/tmp", tmpfs, 0, 0)
    call("chroot in a user namespace", 161, b"/tmp")
"#;
/// The kernel itself refuses these to a process without a capability, or as this host is set: with EPERM or EACCES, or
/// as what it does not have.
const BY_THE_KERNEL: [&str; 27] = [
    "mount",
    "umount2",
    "pivot_root",
    "chroot",
    "clone mnt",
    "clone net",
    "clone pid",
    "unshare mnt",
    "unshare net",
    "unshare pid",
    "setns",
    "open_tree",
    "fsopen",
    "mount_setattr",
    "bpf",
    "kexec_load",
    "init_module",
    "open_by_handle_at",
    "reboot",
    "syslog",
    "settimeofday",
    "sethostname",
    "swapon",
    "acct",
    "AF_VSOCK",
    "AF_ALG",
    "AF_PACKET",
];
/// A kernel may be built without these, and a container may filter them.
const BY_ITS_BUILD: [&str; 8] = [
    "x32 getpid",
    "kcmp",
    "io_uring_setup",
    "userfaultfd",
    "perf_event_open",
    "keyctl",
    "add_key",
    "clone3",
];

fn outcomes(env: &Env, options: &[&str]) -> BTreeMap<String, String> {
    let argv = ["--user=nobody", "--time=60s", "--", "/usr/bin/python3", "-c", CALLS];
    let ran = env.jobctl("user-b", &[&["run"], options, &argv].concat());
    let out = ran.expect(0).out();
    let lines = out.lines().map(|line| line.split_once('=').unwrap());
    lines.map(|(name, outcome)| (name.to_owned(), outcome.to_owned())).collect()
}

fn can_try() -> bool {
    if cfg!(not(target_arch = "x86_64")) {
        host::skip("the numbers of the calls are those of x86_64");
        return false;
    }
    has_python()
}

#[test]
fn calls_that_lead_out_are_refused() {
    if !can_try() {
        return;
    }
    let env = env();
    for profile in PROFILES {
        let with = outcomes(&env, &[&format!("--isolation={profile}")]);
        assert!(with.len() > 40, "{profile}: {with:?}");
        for (name, outcome) in &with {
            let refused = ["EPERM", "ENOSYS", "EACCES", "EAFNOSUPPORT"].contains(&outcome.as_str());
            assert!(refused, "{profile}: {name}: {outcome}");
        }
    }
    env.assert_clean();
}

#[test]
fn without_the_filter_they_succeed_or_the_kernel_refuses_them_for_a_reason_of_its_own() {
    if !can_try() {
        return;
    }
    let env = env();
    let with = outcomes(&env, &[]);
    let without = outcomes(&env, &["--seccomp=none"]);
    eprintln!("{without:#?}");
    let (mut succeeded, mut untold) = (0, Vec::new());
    for (name, outcome) in &without {
        succeeded += u32::from(outcome == "succeeded");
        if with.get(name) == Some(outcome) && !BY_THE_KERNEL.contains(&name.as_str()) {
            untold.push(name.as_str());
        }
    }
    let by_its_build = untold.iter().all(|name| BY_ITS_BUILD.contains(name));
    assert!(by_its_build && untold.len() < BY_ITS_BUILD.len(), "{untold:?}");
    if without["unshare user"] == "succeeded" {
        // What an unprivileged user namespace opens, and the filter closes.
        assert_eq!(without["mount in a user namespace"], "succeeded", "{without:?}");
        assert_eq!(without["chroot in a user namespace"], "succeeded", "{without:?}");
    }
    assert!(succeeded > 2, "{without:?}");
    env.assert_clean();
}

/// getpid(2) of i386, in memory that may be executed.
const INT_80: &str = r#"
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))() > 0)
"#;

#[test]
fn a_call_through_the_gate_of_32_bit_programs_ends_the_job() {
    if !can_try() {
        return;
    }
    let env = env();
    if python(&env, "host", INT_80) != "True\n" {
        return host::skip("this kernel has no 32-bit calls");
    }
    for profile in PROFILES {
        let options = format!("--isolation={profile}");
        let argv = ["run", &options, "--user=nobody", "--", "/usr/bin/python3", "-c", INT_80];
        let ran = env.jobctl("user-b", &argv);
        assert_eq!((ran.code(), ran.out()), (128 + 31, String::new()), "{profile}: SIGSYS");
    }
    env.assert_clean();
}

#[test]
fn ten_thousand_mounts_and_namespaces_are_not_to_be_had() {
    let env = env();
    let unshare =
        "for i in 1 2 3; do unshare -Urm true 2>/dev/null && echo unshared; done; echo done";
    for profile in PROFILES {
        assert_eq!(attack(&env, profile, unshare), "done\n", "{profile}");
    }
    env.assert_clean();
}
