//! Other ways to make a system call than the one that filters are written for. The rules of the filters are tried in
//! `rules.rs`.

use job_tests::host;

use crate::{PROFILES, attack, env, has_python, python};

fn can_try() -> bool {
    if cfg!(not(target_arch = "x86_64")) {
        host::skip("the numbers of the calls are those of x86_64");
        return false;
    }
    has_python()
}

/// getpid(2) of x32, and a call that is newer than all that the filters know.
const BY_OTHER_NUMBERS: &str = r#"
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
for number in (0x40000000 + 39, 0x40000000 + 512, 470, 1000):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), 0, 0, 0, 0, 0, 0)
    print("made" if result >= 0 else errno.errorcode[ctypes.get_errno()])
"#;

#[test]
fn a_call_of_x32_or_one_that_no_filter_knows_is_none() {
    if !can_try() {
        return;
    }
    let env = env();
    for profile in PROFILES {
        assert_eq!(python(&env, profile, BY_OTHER_NUMBERS), "ENOSYS\n".repeat(4), "{profile}");
    }
    if !python(&env, "host", BY_OTHER_NUMBERS).starts_with("made") {
        host::tell("this kernel has no x32: it refuses the call without a filter, too");
    }
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
    let attempt = "exec 2>/dev/null; before=$(wc -l </proc/self/mountinfo); \
                   for i in 1 2 3; do unshare -Urm true && echo unshared; \
                     unshare -Urm mount -t tmpfs tmpfs /tmp && echo mounted; \
                     mount -t tmpfs tmpfs /tmp && echo mounted; mount --bind /usr /tmp && echo bound; \
                   done; [ $(wc -l </proc/self/mountinfo) = $before ] && echo done";
    for profile in PROFILES {
        assert_eq!(attack(&env, profile, attempt), "done\n", "{profile}");
    }
    let options = ["run", "--isolation=private", "--seccomp=none", "--user=nobody", "--"];
    let argv = ["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", "/tmp"];
    // What the filter is for: an account without a privilege mounts in a user namespace of its own.
    let ran = env.jobctl("user-b", &[&options[..], &argv].concat());
    if ran.code() != 0 {
        host::tell(&format!(
            "this host refuses user namespaces without a filter, too: {}",
            ran.err()
        ));
    }
    env.assert_clean();
}
