//! What the kernel shows of itself and of the host: files of its own, terminals, devices, sockets that are no files,
//! and services of the network.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use job_tests::{Env, host};

use crate::{PROFILES, attack, env, has_python, python};

/// Opens for writing whatever is there, but for its own processes and what is a link; a FIFO needs no reader, a terminal
/// takes no control.
const SWEEP: &str = r#"
import os
for top in ("/proc", "/sys", "/dev", "/run"):
    for place, directories, files in os.walk(top):
        if place == "/proc":
            directories[:] = [name for name in directories if not name.isdigit()]
        for path in (os.path.join(place, name) for name in files):
            if os.path.islink(path):
                continue
            try:
                fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY)
                if path.startswith("/proc/sys/"):
                    os.write(fd, b"300")  # anybody may open some of them, and then needs a capability
                os.close(fd)
                print(path)
            except OSError:
                pass
print("done")
"#;
/// Those of every job: they keep nothing, and belong to nobody. What is written into one of pressure asks to be told of
/// it, for as long as it is open.
const NEUTRAL: [&str; 11] = [
    "/dev/full",
    "/dev/null",
    "/dev/ptmx",
    "/dev/pts/ptmx",
    "/dev/random",
    "/dev/tty",
    "/dev/urandom",
    "/dev/zero",
    "/proc/pressure/cpu",
    "/proc/pressure/io",
    "/proc/pressure/memory",
];

#[test]
fn nothing_of_proc_sys_dev_and_run_can_be_written_but_what_keeps_nothing() {
    if !has_python() {
        return;
    }
    let env = env();
    for profile in PROFILES {
        let said = python(&env, profile, SWEEP);
        let mut lines: Vec<_> = said.lines().collect();
        assert_eq!(lines.pop(), Some("done"), "{profile}: {said}");
        lines.retain(|line| !NEUTRAL.contains(line));
        assert_eq!(lines, Vec::<&str>::new(), "{profile}");
    }
    env.assert_clean();
}

#[test]
fn the_memory_of_the_kernel_and_of_disks_is_not_to_be_read() {
    let env = env();
    let script = "for f in /dev/mem /dev/kmem /dev/port /dev/kmsg /dev/sd* /dev/vd* /dev/nvme* /dev/loop* \
                    /dev/fuse /dev/kvm /dev/net/tun /dev/vsock /dev/mapper/* /dev/input/* \
                    /proc/kcore /proc/kmsg /proc/kpageflags /proc/vmallocinfo /sys/kernel/debug/* \
                    /sys/kernel/tracing/trace /sys/firmware/efi/efivars/*; \
                  do head -c 1 $f >/dev/null 2>&1 && echo read $f; done; echo done";
    for profile in PROFILES {
        assert_eq!(attack(&env, profile, script), "done\n", "{profile}");
    }
    env.assert_clean();
}

/// TIOCSTI and TIOCLINUX on a terminal that a job makes itself are in `rules.rs`.
#[test]
fn no_terminal_controls_a_job_and_none_of_the_host_is_there() {
    let env = env();
    let script = "cut -d ' ' -f 7 /proc/self/stat; (: <>/dev/tty) 2>/dev/null && echo controlled; \
                  ls -d /dev/console /dev/tty?* /dev/vcs* /dev/hvc* 2>/dev/null; \
                  ls /dev/pts; for fd in 0 1 2; do [ -t $fd ] && echo $fd; done; echo done";
    for profile in PROFILES {
        assert_eq!(attack(&env, profile, script), "0\nptmx\ndone\n", "{profile}");
    }
    env.assert_clean();
}

#[test]
fn a_crash_runs_nothing_on_the_host_and_leaves_no_core_file() {
    const PATTERN: &str = "/proc/sys/kernel/core_pattern";
    let env = env();
    let before = fs::read_to_string(PATTERN).unwrap();
    for profile in PROFILES {
        let script = format!(
            "for to in '|/bin/touch /tmp/job-tests-core' /tmp/job-tests-core; do \
               (echo \"$to\" >{PATTERN}) 2>/dev/null && echo written; \
               (cd /proc/self/cwd/../../..; echo \"$to\" >./{PATTERN}) 2>/dev/null && echo written; \
             done; ulimit -c; ulimit -c unlimited 2>/dev/null && echo raised; \
             sh -c 'kill -SEGV $$' >/dev/null 2>&1; echo $?; ls -A . /tmp; echo done"
        );
        let said = attack(&env, profile, &script);
        assert_eq!(said, "0\n139\n.:\n\n/tmp:\ndone\n", "{profile}");
    }
    assert_eq!(fs::read_to_string(PATTERN).unwrap(), before);
    assert!(!Path::new("/tmp/job-tests-core").exists());
    env.assert_clean();
}

#[test]
fn a_fifo_below_run_is_not_there_nor_is_a_service_of_the_host() {
    let env = env();
    let path = format!("/run/job-tests-{}.fifo", std::process::id());
    let _ = fs::remove_file(&path);
    nix::unistd::mkfifo(path.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let mut reader = OpenOptions::new().read(true).custom_flags(0o4000).open(&path).unwrap();
    let script = format!(
        "(exec 2>/dev/null; [ -p {path} ] && echo sent >{path}); \
         for s in docker.sock containerd/containerd.sock crio/crio.sock podman/podman.sock \
           dbus/system_bus_socket systemd/private systemd/notify systemd/journal/socket udev/control; \
         do ls -d /run/$s /var/run/$s 2>/dev/null; done; echo done"
    );
    let mut said = String::new();
    for profile in PROFILES {
        assert_eq!(attack(&env, profile, &script), "done\n", "{profile}");
        let _ = reader.read_to_string(&mut said); // nobody writes: it is at its end, or would wait
        assert_eq!(said, "", "{profile}");
    }
    attack(&env, "host", &script);
    let _ = reader.read_to_string(&mut said);
    assert_eq!(said, "sent\n");
    fs::remove_file(path).unwrap();
}

/// What a virtual machine reaches its hypervisor by. Network namespaces do not hold it back.
#[test]
fn a_virtual_socket_is_to_be_had_without_a_filter_only() {
    if !has_python() {
        return;
    }
    let env = env();
    let script = "import errno, socket\ntry:\n  s = socket.socket(40, socket.SOCK_STREAM)\n  \
                  s.bind((0xffffffff, 0xffffffff)); print('bound')\n\
                  except OSError as e: print(errno.errorcode[e.errno])";
    for profile in PROFILES {
        assert_eq!(python(&env, profile, script), "EAFNOSUPPORT\n", "{profile}");
    }
    let argv =
        ["run", "--isolation=strict", "--seccomp=none", "--", "/usr/bin/python3", "-c", script];
    let without = env.jobctl("user-b", &argv).expect(0).out();
    if without == "EAFNOSUPPORT\n" {
        return host::skip("this kernel has no AF_VSOCK");
    }
    assert_eq!(without, "bound\n", "in a network of its own");
    env.assert_clean();
}

#[test]
fn a_service_on_a_loopback_address_is_reached_with_the_hosts_network_only() {
    if !has_python() {
        return;
    }
    let env = env();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connect = |env: &Env, profile: &str| {
        let script = format!(
            "import socket\ntry:\n  socket.create_connection({:?}, 5); print('connected')\n\
             except OSError: print('no')",
            ("127.0.0.1", listener.local_addr().unwrap().port())
        );
        python(env, profile, &script)
    };
    assert_eq!(connect(&env, "host"), "connected\n");
    assert_eq!(connect(&env, "private"), "connected\n");
    assert_eq!(connect(&env, "strict"), "no\n");
    env.assert_clean();
}
