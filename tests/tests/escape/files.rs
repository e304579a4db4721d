//! The host's files, sockets and devices.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Command;

use job_tests::{Env, host, until};

use crate::{PROFILES, SECRET, attack, env, has_python, python};

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
    // Landlock keeps a job with the host's network from abstract sockets, from Linux 6.12 on.
    let version = "import ctypes\nprint(ctypes.CDLL(None).syscall(444, 0, 0, 1))";
    let scoped = python(&env, "host", version).trim().parse::<i32>().unwrap() >= 6;
    let expected = if scoped { "no\nno\n" } else { "no\nconnected\n" };
    assert_eq!(python(&env, "private", &script), expected);
    let own = "import socket\ns = socket.socket(socket.AF_UNIX); s.bind('\\0own'); s.listen()\n\
               c = socket.socket(socket.AF_UNIX); c.connect('\\0own'); print('connected')";
    assert_eq!(python(&env, "private", own), "connected\n");
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

/// CVE-2019-5736: a runtime that is executed again by its workload, and written to meanwhile.
#[test]
fn the_shims_program_is_not_to_be_changed_nor_led_to_other_libraries() {
    let env = env();
    let program = env.path("job-shim");
    let before = fs::read(&program).unwrap();
    // CVE-2019-14271: what has no interpreter loads no library of the job's.
    assert!(!segments(&before).contains(&3), "PT_INTERP");
    for profile in PROFILES.into_iter().chain(["host"]) {
        let options = format!("--isolation={profile}");
        for itself in ["/proc/self/exe", "/proc/1/exe", "/proc/self/fd/3", "/proc/self/fd/4"] {
            let ran = env.jobctl("user-b", &["run", &options, "--user=nobody", "--", itself]);
            assert_ne!(ran.code(), 0, "{profile} {itself}: {}", ran.out());
        }
        let script = format!(
            "for p in /proc/[0-9]*; do (: >$p/exe) 2>/dev/null && echo $p; done; \
             (: >{0}) 2>/dev/null; rm -f {0} 2>/dev/null; mv {0} {0}.x 2>/dev/null; echo done",
            program.display()
        );
        assert_eq!(attack(&env, profile, &script), "done\n", "{profile}");
    }
    assert!(fs::read(&program).unwrap() == before);
    env.assert_clean();
}

/// The kinds of an executable's segments, elf(5).
fn segments(program: &[u8]) -> Vec<u32> {
    let number = |at: usize, size: usize| {
        program[at..at + size].iter().rev().fold(0, |all, byte| all << 8 | usize::from(*byte))
    };
    let (first, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    (0..count).map(|n| number(first + n * size, 4) as u32).collect()
}

/// CVE-2024-21626: what a job inherits.
#[test]
fn a_job_has_three_descriptors_a_known_environment_and_nothing_of_its_shim() {
    let env = env();
    for profile in PROFILES {
        let script = "for n in $(ls /proc/self/fd); do readlink /proc/$$/fd/$n; done | \
                      sed 's/[0-9].*//; s/\\[//' | tr '\\n' ' '; \
                      cat /proc/$$/environ | tr '\\0' '\\n' | cut -d= -f1 | sort | tr '\\n' ' '; \
                      ls -d /proc/1 2>/dev/null; cd /proc/1 2>/dev/null && echo entered; \
                      grep -c . /proc/1/mem /proc/1/maps /proc/1/environ /proc/1/task/1/stat; echo done";
        let said = attack(&env, profile, script);
        let said = said.lines().next().unwrap_or_default().replace("pipe: ", "");
        let known = "HOME JOB_DIR JOB_ID LANG LOGNAME PATH SHELL USER done";
        assert_eq!(said.replace("/dev/null ", ""), known, "{profile}");
    }
    env.assert_clean();
}

/// As a static program and with file capabilities, too.
#[test]
fn a_program_with_file_capabilities_reads_no_more_than_without() {
    if !host::has_program("setcap", "-h") {
        return;
    }
    let env = env();
    let dir = env.shared().canonicalize().unwrap();
    let [cat, secret] = ["cat", "secret"].map(|name| dir.join(name));
    fs::copy("/usr/bin/cat", &cat).unwrap();
    fs::write(&secret, SECRET).unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&secret, private).unwrap();
    let mut setcap = Command::new("setcap");
    let given = setcap.args(["cap_dac_override,cap_dac_read_search+ep"]).arg(&cat).status();
    if !given.unwrap().success() {
        return host::skip("the file system has no capabilities");
    }
    for profile in PROFILES.into_iter().chain(["host"]) {
        let options = format!("--isolation={profile}");
        let volume = format!("--read-only={}", dir.display());
        let argv = ["run", &options, &volume, "--user=nobody", "--", cat.to_str().unwrap()];
        let ran = env.jobctl("user-b", &[&argv[..], &[secret.to_str().unwrap()]].concat());
        assert!(ran.code() != 0 && !ran.out().contains(SECRET), "{profile}");
    }
    env.assert_clean();
}

#[test]
fn the_next_job_of_an_uid_finds_nothing_of_the_one_before() {
    if !has_python() {
        return;
    }
    let sections = "[isolation]\nminimum = \"host\"\n";
    let env = Env::builder().config("pool = [70000, 70000]").sections(sections).start();
    let leave = "import ctypes, os, subprocess\n\
        libc = ctypes.CDLL(None)\n\
        for d in ('/tmp', '/var/tmp', '/dev/shm', os.environ['JOB_DIR']):\n  \
          open(d + '/left', 'w').write('left'); os.chmod(d + '/left', 0o666)\n\
        os.mkfifo('/tmp/fifo')\n\
        libc.mq_open(b'/left', os.O_CREAT | os.O_RDWR, 0o666, None)\n\
        libc.shmget(4711, 4096, 0o1666); libc.msgget(4711, 0o1666); libc.semget(4711, 1, 0o1666)\n\
        libc.syscall(248, b'user', b'left', b'left', 4, -4)\n\
        print('ready', flush=True)";
    let find = "find /tmp /var/tmp /dev /run -uid $(id -u) -not -path /run/job -not -path '/dev/pts/*' \
                2>/dev/null; ls -A /tmp /var/tmp /dev/shm $JOB_DIR /dev/mqueue | grep -v :; \
                ipcs -a | grep -c 0x; grep left /proc/keys; ps -u $(id -u) -o comm=; echo done";
    for profile in PROFILES {
        let options = format!("--isolation={profile}");
        // Until the only uid has been given back.
        let job = |user, argv: &[&str]| {
            let first = ["run", &options, "--user=pool", "--"];
            let run = || env.jobctl(user, &[&first[..], argv].concat());
            until("the uid is free", || Some(run()).filter(|ran| !ran.err().contains("all 1 uids")))
        };
        let left = job("user-a", &["/usr/bin/python3", "-c", leave]);
        assert_eq!(left.out(), "ready\n", "{}", left.err());
        let found = job("user-b", &["sh", "-c", find]);
        let said: Vec<_> = found
            .out()
            .lines()
            .filter(|line| !["", "sh", "ps"].contains(line))
            .map(str::to_owned)
            .collect();
        assert_eq!(said, ["0", "done"], "{profile}: {}", found.err());
    }
    env.assert_clean();
}
