//! What a hostile job tries to get out, and to reach of others: each attempt is made by a real workload, and what is
//! asserted is its effect. docs/ISOLATION.md has the table that these hold.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Command;

use job_tests::{Env, host, until};

/// The profiles that keep jobs apart.
const PROFILES: [&str; 2] = ["private", "strict"];
/// In the environment, the files and the queues of the victim.
const SECRET: &str = "correct-horse-battery";

fn env() -> Env {
    Env::builder().sections("[isolation]\nminimum = \"host\"\n").start()
}

/// What an attack of user-b prints, as `nobody` like its victim. It may fail.
fn attack(env: &Env, profile: &str, script: &str) -> String {
    let profile = format!("--isolation={profile}");
    let argv = ["run", &profile, "--user=nobody", "--time=60s", "--", "sh", "-c", script];
    let ran = env.jobctl("user-b", &argv);
    ran.out() + &ran.err()
}

/// Whether this host can run the attacks that need Python.
fn has_python() -> bool {
    let has = host::has_program("/usr/bin/python3", "--version");
    if !has {
        host::skip("there is no /usr/bin/python3");
    }
    has
}

fn python(env: &Env, profile: &str, script: &str) -> String {
    let profile = format!("--isolation={profile}");
    let argv = ["run", &profile, "--user=nobody", "--time=60s", "--", "/usr/bin/python3", "-c"];
    let ran = env.jobctl("user-b", &[&argv[..], &[script]].concat());
    ran.out() + &ran.err()
}

/// A job of user-a with secrets wherever a job has them. Its pid on the host.
struct Victim {
    pid: i64,
    shim: i64,
}

impl Victim {
    fn start(env: &Env, profile: &str) -> Victim {
        let profile = format!("--isolation={profile}");
        let secret = format!("--env=SECRET={SECRET}");
        let script = "for d in /tmp /dev/shm /var/tmp $JOB_DIR; do echo $SECRET >$d/victim; done; \
                      (ipcmk -Q && ipcmk -M 4096) >/dev/null 2>&1; echo ready; exec sleep 600";
        let argv = ["start", &profile, &secret, "--user=nobody", "--", "sh", "-c", script];
        let id = env.jobctl("user-a", &argv).id();
        until("the victim is ready", || env.stdout_log(&id).contains("ready").then_some(()));
        let pid = env.jobctl("user-a", &["inspect", &id]).json()["pid"].as_i64().unwrap();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let shim = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
        Victim { pid, shim: shim.trim().parse().unwrap() }
    }

    fn lives(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/comm", self.pid)).is_ok_and(|name| name == "sleep\n")
    }
}

fn nice(pid: i64) -> i64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.split(' ').nth(16).unwrap().parse().unwrap()
}

#[test]
fn jobs_of_two_users_that_share_nobody_do_not_reach_each_other() {
    let env = env();
    for profile in PROFILES {
        let victim = Victim::start(&env, profile);
        let Victim { pid, shim } = victim;
        for script in [
            format!("tr '\\0' '\\n' </proc/{pid}/environ"),
            "for p in /proc/[0-9]*; do tr '\\0' '\\n' <$p/environ; done".into(),
            format!(
                "ls -la /proc/{pid}/root/tmp /proc/{pid}/cwd/ /proc/{pid}/fd; cat /proc/{pid}/root/tmp/victim"
            ),
            "cat /tmp/victim /dev/shm/victim /var/tmp/victim $JOB_DIR/victim /run/job/*".into(),
            format!(
                "find {} /tmp /var/tmp /dev/shm /run -name victim -exec cat {{}} + 2>/dev/null",
                env.path("state-work").display()
            ),
        ] {
            let said = attack(&env, profile, &script);
            assert!(!said.contains(SECRET), "{profile}: {script}: {said}");
        }
        let script = format!(
            "for p in {pid} {shim} -{pid} -1; do kill -9 $p 2>/dev/null; done; \
             renice -n 19 -p {pid} {shim} 2>/dev/null; chrt -i -p 0 {shim} 2>/dev/null; echo survived"
        );
        let nices = [nice(pid), nice(shim)];
        attack(&env, profile, &script);
        assert!(victim.lives(), "{profile}: the victim is dead");
        assert_eq!([nice(pid), nice(shim)], nices, "{profile}");
        let queues = attack(&env, profile, "ipcs -q -m | grep -c 0x");
        assert!(queues.starts_with('0'), "{profile}: {queues}");
    }
}

#[test]
fn the_same_attacks_succeed_where_nothing_keeps_the_jobs_apart() {
    let env = env();
    let victim = Victim::start(&env, "host");
    let said = attack(&env, "host", &format!("tr '\\0' '\\n' </proc/{}/environ", victim.pid));
    assert!(said.contains(SECRET), "{said}");
    attack(&env, "host", &format!("kill -9 {}", victim.pid));
    until("the victim is dead", || (!victim.lives()).then_some(()));
    fs::remove_file("/dev/shm/victim").unwrap();
    fs::remove_file("/tmp/victim").unwrap();
    fs::remove_file("/var/tmp/victim").unwrap();
}

#[test]
fn a_shim_is_out_of_the_reach_of_its_own_job() {
    let env = env();
    for profile in PROFILES {
        let script = "for s in 1 9 15 19; do kill -$s 1 2>/dev/null && echo killed; done; \
                      cat /proc/1/environ /proc/1/maps /proc/1/auxv /proc/1/mountinfo 2>/dev/null; \
                      ls /proc/1/fd /proc/1/root/ /proc/1/cwd/ 2>/dev/null; readlink /proc/1/exe; echo done";
        assert_eq!(attack(&env, profile, script), "done\n", "{profile}");
    }
    env.assert_clean();
}

#[test]
fn the_hosts_files_processes_and_settings_are_not_to_be_changed() {
    let env = env();
    let dir = env.shared().canonicalize().unwrap();
    for profile in PROFILES {
        let script = format!(
            "for f in /x /etc/x /usr/bin/x /var/x /run/x /dev/x /sys/fs/cgroup/x /home/x {0}/x \
               /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/1/oom_score_adj /sys/kernel/x \
               /etc/passwd /bin/sh /run/job/../x; do (echo x >$f) 2>/dev/null && echo wrote $f; done; \
             mkdir /proc/x /sys/x /dev/y 2>/dev/null && echo made; \
             mknod $JOB_DIR/sda b 8 0 2>/dev/null && echo device; \
             ls /sys/fs/cgroup 2>/dev/null | grep -c cgroup.procs; ls /run | grep -v job; \
             ls {1} {2} 2>/dev/null; echo done",
            dir.display(),
            env.path("state").display(),
            env.path("run").display(),
        );
        assert_eq!(attack(&env, profile, &script), "0\ndone\n", "{profile}");
    }
    env.assert_clean();
}

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
fn setuid_programs_and_file_capabilities_do_nothing() {
    let env = env();
    let dir = env.shared().canonicalize().unwrap();
    let id = dir.join("id");
    fs::copy("/usr/bin/id", &id).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o6755);
    fs::set_permissions(&id, mode).unwrap();
    for profile in PROFILES {
        let options = format!("--isolation={profile}");
        let volume = format!("--volume={}:/host:ro", dir.display());
        let script = "/host/id -u; su -c id root </dev/null 2>/dev/null; cp /host/id $JOB_DIR/own; \
                      chmod 6755 $JOB_DIR/own; $JOB_DIR/own -u; grep -c '^Cap...:.*[1-9a-f]' /proc/self/status";
        let argv = ["run", &options, &volume, "--user=nobody", "--", "sh", "-c", script];
        assert_eq!(env.jobctl("user-b", &argv).out(), "65534\n65534\n0\n", "{profile}");
    }
    env.assert_clean();
}

#[test]
fn a_socket_of_the_host_below_run_is_not_there_and_an_abstract_one_only_with_its_network() {
    if !has_python() {
        return;
    }
    let env = env();
    let name = format!("job-tests-{}", std::process::id());
    let _abstract =
        UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let path = format!("/run/{name}");
    let _listener = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let script = format!(
        "import socket\nfor a in ({path:?}, '\\0{name}'):\n  s = socket.socket(socket.AF_UNIX)\n  \
         try:\n    s.connect(a); print('connected')\n  except OSError as e: print('no')\n"
    );
    assert_eq!(python(&env, "host", &script), "connected\nconnected\n");
    assert_eq!(python(&env, "private", &script), "no\nconnected\n");
    assert_eq!(python(&env, "strict", &script), "no\nno\n");
    fs::remove_file(path).unwrap();
}

#[test]
fn no_descriptor_of_the_host_is_inherited_and_none_leads_out() {
    let env = env();
    for profile in PROFILES {
        // CVE-2024-21626: a working directory that is a descriptor of the host's. CVE-2019-5736: the runtime's own file.
        let script = "ls /proc/self/fd | tr '\\n' ' '; for n in 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do \
                        ls /proc/self/fd/$n/ 2>/dev/null | grep -q etc && echo $n leads out; done; \
                      (: >/proc/1/exe) 2>/dev/null && echo rewritten; echo done";
        let said = attack(&env, profile, script);
        assert_eq!(said, "0 1 2 3 done\n", "{profile}: 3 is ls's own");
        for n in 3..20 {
            let directory = format!("--workdir=/proc/self/fd/{n}");
            let options = format!("--isolation={profile}");
            let argv = ["run", &options, &directory, "--", "cat", "../../../../etc/shadow"];
            assert_ne!(env.jobctl("user-b", &argv).code(), 0, "{n}");
        }
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

#[test]
fn programs_that_people_use_run_in_a_private_job() {
    let env = env();
    let programs = [
        ("gcc", "printf 'int main(){return 0;}' >a.c && gcc a.c -o a && ./a && echo ok"),
        (
            "git",
            "git init -q r && cd r && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x && echo ok",
        ),
        (
            "python3",
            "python3 -c 'import threading, multiprocessing as m, subprocess; t = threading.Thread(target=print); t.start(); t.join(); p = m.Process(target=print); p.start(); p.join(); subprocess.run([\"true\"]); print(\"ok\")'",
        ),
        ("node", "node -e 'console.log(\"ok\")'"),
        ("java", "java -version 2>/dev/null && echo ok"),
        (
            "go",
            "HOME=$JOB_DIR GOCACHE=/tmp/go GOFLAGS=-mod=mod; export HOME GOCACHE; printf 'package main\\nfunc main(){println(1)}' >m.go && go build -o m m.go && ./m 2>/dev/null && echo ok",
        ),
        ("perl", "perl -e 'print \"ok\\n\"'"),
        ("strace", "strace -f -o /dev/null true && echo ok"),
        ("tar", "tar cf a.tar /etc/passwd 2>/dev/null && tar xf a.tar && echo ok"),
    ];
    let (there, absent): (Vec<_>, Vec<_>) = programs.into_iter().partition(|(program, _)| {
        let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
        found.is_ok_and(|found| found.stdout.starts_with(b"/usr/bin/"))
    });
    for (program, _) in absent {
        host::tell(&format!("{program} is not in /usr/bin here, and was not tried"));
    }
    for (program, script) in there {
        let said = attack(&env, "private", script);
        assert!(said.ends_with("ok\n"), "{program}: {said}");
    }
    env.assert_clean();
}
