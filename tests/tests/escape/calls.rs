//! System calls that lead out of a job, by their numbers.

use job_tests::host;

use crate::{PROFILES, attack, env, has_python, python};

/// Each call by its number, so that no library is in the way.
const CALLS: &str = r#"
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(name, number, *args):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    if result >= 0:
        print(name, "succeeded")
    elif ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS, errno.EACCES, errno.EAFNOSUPPORT):
        print(name, errno.errorcode[ctypes.get_errno()])
nul, root, tmpfs = 0, b"/", b"tmpfs"
call("mount", 165, tmpfs, b"/tmp", tmpfs, 0, 0)
call("umount2", 166, b"/proc", 2)
call("pivot_root", 155, b"/tmp", b"/tmp")
call("chroot", 161, b"/tmp")
for flag, name in ((0x10000000, "user"), (0x20000, "mnt"), (0x40000000, "net"), (0x20000000, "pid")):
    call("unshare " + name, 272, flag)
    call("clone " + name, 56, flag | 17, 0, 0, 0, 0)
fd = os.open("/proc/self/ns/mnt", os.O_RDONLY) if os.path.exists("/proc/self/ns/mnt") else 0
call("setns", 308, fd, 0)
call("open_tree", 428, -100, root, 1)
call("fsopen", 430, tmpfs, 0)
call("mount_setattr", 442, -100, root, 0, 0, 0)
call("keyctl", 250, 1, 0)
call("add_key", 248, b"user", b"x", b"y", 1, -3)
call("bpf", 321, 5, 0, 0)
call("perf_event_open", 298, 0, 0, -1, -1, 0)
call("io_uring_setup", 425, 8, b"\0" * 128)
call("userfaultfd", 323, 0)
call("process_vm_readv", 310, 1, 0, 0, 0, 0, 0)
call("pidfd_getfd", 438, 0, 0, 0)
call("kexec_load", 246, 0, 0, 0, 0)
call("init_module", 175, 0, 0, b"")
call("open_by_handle_at", 304, 0, 0, 0)
call("reboot", 169, 0xfee1dead, 672274793, 0, 0)
call("syslog", 103, 3, 0, 0)
call("settimeofday", 164, 0, 0)
call("sethostname", 170, b"x", 1)
call("swapon", 167, root, 0)
call("acct", 163, 0)
call("AF_VSOCK", 41, 40, 1, 0)
call("AF_PACKET", 41, 17, 3, 0)
call("x32 getpid", 0x40000000 + 39)
call("clone3", 435, 0, 0)
print("done")
"#;

#[test]
fn calls_that_lead_out_are_refused() {
    if !has_python() {
        return;
    }
    if cfg!(not(target_arch = "x86_64")) {
        return host::skip("the numbers of the calls are those of x86_64");
    }
    let env = env();
    for profile in PROFILES {
        assert_eq!(python(&env, profile, CALLS), "done\n", "{profile}");
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
