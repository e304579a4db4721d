//! What a job sees of its host: the profiles, their pieces, and what is left of them afterwards.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use job_tests::{Env, host, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// As an operator has it who says nothing, but for the list of what may be written.
fn env() -> Env {
    Env::builder()
        .sections("[isolation]\nread_write = [\"{dir}/shared\", \"{dir}/shared/listed\"]\n")
        .start()
}

/// The mount namespaces of this host's processes, and the mounts of this one.
fn namespaces() -> (BTreeSet<PathBuf>, String) {
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let namespace = |process: PathBuf| fs::read_link(process.join("ns/mnt")).ok();
    let all = processes.filter_map(namespace).collect();
    (all, fs::read_to_string("/proc/self/mountinfo").unwrap())
}

#[test]
fn a_job_that_says_nothing_sees_its_own_processes_and_its_own_directory() {
    let env = env();
    let script = "ls -d /proc/[0-9]* | wc -l; pwd; echo $JOB_DIR; echo kept >file; cat file; \
                  ls -A /tmp /var/tmp /dev/shm | grep -v : | wc -w; readlink /proc/self/ns/pid";
    let text = env.sh(&[], script);
    let lines: Vec<_> = text.lines().collect();
    let processes: u32 = lines[0].trim().parse().unwrap();
    assert!(processes <= 5, "{text}");
    assert_eq!(lines[1..5], ["/run/job", "/run/job", "kept", "0"]);
    assert_ne!(Path::new(lines[5]), fs::read_link("/proc/self/ns/pid").unwrap());
    until("its directory is gone", || env.own_dirs().is_empty().then_some(()));
    env.assert_clean();
}

#[test]
fn the_pid_that_people_see_is_the_hosts() {
    let env = env();
    let id = env.jobctl("user-a", &["start", "--", "sleep", "600"]).id();
    let pid = env.jobctl("user-a", &["inspect", &id]).json()["pid"].as_i64().unwrap();
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(), "sleep\n");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let own = status.lines().find(|line| line.starts_with("NSpid:")).unwrap();
    assert!(own.ends_with("\t2"), "process 2 in its own namespace: {own}");
    env.jobctl("user-a", &["kill", "-s", "TERM", &id]).expect(0);
    assert_eq!(env.jobctl("user-a", &["wait", &id]).code(), 128 + 15);
    env.assert_clean();
}

#[test]
fn nothing_of_the_host_can_be_written_but_what_the_operator_lists() {
    let env = env();
    let dir = env.shared().canonicalize().unwrap();
    let allow = format!("--allow={}", dir.display());
    let script = format!("echo job >{}/written", dir.display());
    let argv = ["run", "--", "sh", "-c", &script];
    let ran = env.jobctl("user-a", &argv);
    assert_ne!(ran.code(), 0, "/tmp is another one, and it has no such directory");
    env.sh(&[&allow], &script);
    assert_eq!(fs::read_to_string(dir.join("written")).unwrap(), "job\n");
    let read = format!("{allow}:ro");
    let text = env.sh(&[&read], &format!("cat {0}/written; {script} || echo no", dir.display()));
    assert_eq!(text, "job\nno\n");
    let moved = format!("--volume={}:/elsewhere/data:ro", dir.display());
    let text = env.sh(&[&moved], "cat /elsewhere/data/written; touch /elsewhere/x || echo no");
    assert_eq!(text, "job\nno\n");
    let error = env.refused(&["--allow=/usr"]);
    assert!(error.contains("/usr") && error.contains("isolation.read_write"), "{error}");
    env.assert_clean();
}

#[test]
fn strict_has_a_base_system_and_what_is_named() {
    let env = env();
    let dir = env.shared().canonicalize().unwrap();
    fs::write(dir.join("data"), "data\n").unwrap();
    let options = ["--isolation=strict", &format!("--volume={}:/data:ro", dir.display())];
    let script = "cat /data/data; ls /home /root /srv /mnt 2>&1 | grep -c 'No such'; \
                  cat /proc/net/dev | tail -n +3 | wc -l; echo ok >x; cat x";
    assert_eq!(env.sh(&options, script), "data\n4\n1\nok\n");
    env.assert_clean();
}

#[test]
fn directories_in_memory_hold_what_they_may_and_no_more() {
    let env = env();
    let fill = "dd if=/dev/zero of=$1/fill bs=64k count=100 2>/dev/null; stat -c %s $1/fill";
    let script = |path: &str| fill.replace("$1", path);
    assert_eq!(env.sh(&["--tmpfs=/build:1M"], &script("/build")), "1048576\n");
    assert_eq!(env.sh(&["--tmp-size=1M"], &script("/dev/shm")), "1048576\n");
    // Inodes, too: one for each 16 KiB, and 1,024 at least.
    let files = "i=0; while true >/tmp/$i; do i=$((i+1)); done 2>/dev/null; ls /tmp | wc -l";
    let count: u32 = env.sh(&["--tmp-size=1M"], files).trim().parse().unwrap();
    assert!((900..=1024).contains(&count), "{count}");
    let error = env.refused(&["--tmp-size=100G"]);
    assert!(error.contains("isolation.tmp_bytes"), "{error}");
    env.assert_clean();
}

#[test]
fn what_is_weaker_than_the_least_is_refused_piece_by_piece() {
    let env = env();
    for (option, field) in [
        ("--isolation=host", "spec.isolation.profile"),
        ("--pid=host", "spec.isolation.pids"),
        ("--seccomp=none", "spec.isolation.seccomp"),
        ("--seccomp=log", "spec.isolation.seccomp_log"),
    ] {
        let error = env.refused(&[option]);
        assert!(error.contains(field) && error.contains("isolation.minimum"), "{error}");
    }
    let error = env.refused(&["--cap=SYS_ADMIN"]);
    assert!(error.contains("jobs have no capabilities"), "{error}");
    let open = Env::builder().sections("[isolation]\nminimum = \"host\"\n").start();
    let text = open.sh(&["--isolation=host"], "readlink /proc/self/ns/pid /proc/self/ns/mnt");
    let own = ["pid", "mnt"].map(|name| fs::read_link(format!("/proc/self/ns/{name}")).unwrap());
    let own = own.map(|link| link.into_os_string().into_string().unwrap() + "\n");
    assert_eq!(text, own.concat());
    // Pieces by themselves.
    let text = open.sh(
        &["--isolation=host", "--private-tmp", "--workdir=/"],
        "ls -A /tmp; ls -d /root; [ -d /run/job ] || echo shared",
    );
    assert_eq!(text, "/root\nshared\n");
}

#[test]
fn a_path_is_opened_as_the_jobs_user_and_judged_by_what_it_leads_to() {
    let env = env();
    let dir = env.shared().canonicalize().unwrap();
    let [secret, link, proc] = ["secret", "link", "proc"].map(|name| dir.join(name));
    fs::create_dir(&secret).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o700)).unwrap();
    symlink("/root", &link).unwrap();
    symlink("/proc/self/root", &proc).unwrap();
    for path in [&secret, &link, &proc, &dir.join("absent")] {
        let error = env.refused(&["--read-only", path.to_str().unwrap()]);
        assert!(error.contains("cannot mount"), "{error}");
    }
    let listed = dir.join("listed");
    symlink("/usr", &listed).unwrap();
    let error = env.refused(&["--allow", listed.to_str().unwrap()]);
    assert!(error.contains("\"/usr\" may not be mounted for writing"), "{error}");
    for never in ["/proc", "/run", "/dev/null", "/sys/kernel"] {
        let error = env.refused(&["--read-only", never]);
        assert!(error.contains("is the host's"), "{error}");
    }
    env.assert_clean();
}

#[test]
fn no_place_of_a_mount_is_made_on_the_host_and_no_name_of_a_job_is_the_hosts() {
    let env = env();
    let dir = tempfile::Builder::new().prefix("job-tests-").tempdir_in("/var/lib").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("/proc/1/root", dir.path().join("link")).unwrap();
    let made = dir.path().join("made");
    // Process 1 of a job is its shim, whose root is the host's.
    let by_link = format!("--tmpfs={}/link{}", dir.path().display(), made.display());
    let by_path = format!("--tmpfs=/proc/1/root{}", made.display());
    let file = format!("--volume=/etc/hostname:{}/link{}:ro", dir.path().display(), made.display());
    for option in [&by_link, &by_path, &file] {
        env.refused(&[option]);
        assert!(!made.exists(), "{option}");
    }
    let before = nix::unistd::gethostname().unwrap();
    let open = Env::builder().sections("[isolation]\nminimum = \"host\"\n").start();
    assert_eq!(open.sh(&["--isolation=host", "--hostname=own"], "uname -n"), "own\n");
    assert_eq!(nix::unistd::gethostname().unwrap(), before);
}

#[test]
fn a_role_says_how_its_jobs_are_isolated_and_what_they_mount() {
    let role = |name: &str, isolation: &str, program: &str| {
        format!(
            "[[role]]\nname = \"{name}\"\nidentities = [\"{name}\"]\n\
             allow = [\"start\", \"view\", \"logs\"]\n[role.isolation]\n{isolation}\n\
             [[role.program]]\npath = \"{program}\"\nargs = [\"...\"]\n"
        )
    };
    let listing = fs::canonicalize("/bin/ls").unwrap().display().to_string();
    let policy = role("ops", "minimum = \"host\"", "/**")
        + &role("guest", "default = \"strict\"\nminimum = \"strict\"", "/**")
        + &role("plain", "", &listing)
        + &role("ci", "mounts = [\"/usr/share/doc\"]", &listing);
    let env = Env::builder().sections("[isolation]\n").policy(&policy).start();
    let ls = |user: &str, options: &[&str]| {
        env.jobctl(
            user,
            &[&["run"], options, &["--", "ls", "-d", "/home", "/usr/share/doc"]].concat(),
        )
    };
    let both = "/home\n/usr/share/doc\n";
    assert_eq!(ls("ops", &["--isolation=host"]).out(), both);
    assert_eq!(ls("guest", &[]).out(), "/usr/share/doc\n", "there is no /home in strict");
    assert!(ls("guest", &["--isolation=private"]).err().contains("\"strict\""));
    assert_eq!(ls("plain", &[]).out(), both);
    let denied = |user: &str, option: &str| {
        let error = ls(user, &[option]).err();
        assert!(error.contains("does not allow the mount at"), "{user} {option}: {error}");
    };
    denied("plain", "--read-only=/usr/share/doc");
    denied("plain", "--tmpfs=/usr/lib");
    assert_eq!(ls("ci", &["--read-only=/usr/share/doc"]).out(), both);
    denied("ci", "--volume=/usr/share/doc:/usr/lib:ro");
    denied("ci", "--read-only=/usr/share");
}

#[test]
fn orphans_are_reaped_and_the_end_of_the_main_process_is_still_known() {
    let env = env();
    // Each `sh` leaves a child behind, which is process 1's from then on.
    let script = "i=0; while [ $i -lt 300 ]; do sh -c 'true & true &'; i=$((i+1)); done; \
                  while grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | grep -q .; do :; done; \
                  echo none; exit 7";
    let ran = env.jobctl("user-a", &["run", "--time=30s", "--", "sh", "-c", script]);
    assert_eq!((ran.code(), ran.out()), (7, "none\n".into()), "{}", ran.err());
    env.assert_clean();
}

#[test]
fn a_host_name_and_a_network_are_the_jobs_own() {
    let env = env();
    let text = env.sh(&["--hostname=build-1", "--network=none"], "uname -n; ls /sys/class/net");
    assert_eq!(text.lines().next(), Some("build-1"));
    assert_ne!(nix::unistd::gethostname().unwrap(), "build-1");
    let script = "tail -n +3 /proc/net/dev | cut -d: -f1";
    assert_eq!(env.sh(&["--network=none"], script).trim(), "lo");
    env.assert_clean();
}

#[test]
fn status_says_in_words_what_the_job_could_see() {
    let env = env();
    let id = env.jobctl("user-a", &["start", "--network=none", "--", "true"]).id();
    let text = env.jobctl("user-a", &["status", &id]).expect(0).out();
    for words in
        ["isolation:", "private", "none but its own loopback", "it sees and signals no other"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
    let text = env.jobctl("user-a", &["info"]).expect(0).out();
    assert!(text.contains("private by default, private at least"), "{text}");
}

/// Jobs that are started, ended and looked for; the testbed's forks are slow.
fn many() -> usize {
    if job_tests::is_testbed() { 40 } else { 200 }
}

#[test]
fn many_jobs_leave_no_namespace_no_mount_and_no_process() {
    let env = env();
    let before = all_namespaces();
    let mounts = namespaces().1;
    let script = "trap : EXIT; true & mkdir d; echo x >/tmp/x; wait";
    let argv =
        ["start", "--isolation=strict", "--tmpfs=/x", "--hostname=h", "--", "sh", "-c", script];
    for _ in 0..many() / 20 {
        let ids: Vec<_> = (0..20).map(|_| env.jobctl("user-a", &argv).id()).collect();
        let wait: Vec<&str> =
            std::iter::once("wait").chain(ids.iter().map(String::as_str)).collect();
        env.jobctl("user-a", &wait).expect(0);
    }
    until("their directories are gone", || env.own_dirs().is_empty().then_some(()));
    let gone = || all_namespaces().is_subset(&before).then_some(());
    until("their namespaces are gone", gone);
    assert_eq!(namespaces().1, mounts, "the host's mounts");
    env.assert_clean();
}

/// The namespaces of all kinds that this host's processes are in.
fn all_namespaces() -> BTreeSet<PathBuf> {
    let processes = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| fs::read_dir(entry.unwrap().path().join("ns")).ok());
    processes.flatten().filter_map(|link| fs::read_link(link.ok()?.path()).ok()).collect()
}

#[test]
fn nothing_is_left_when_broker_and_shim_are_killed() {
    let mut env = Env::builder().sections("[isolation]\nshared = [\"{dir}/shared\"]\n").start();
    let before = namespaces();
    let options = ["start", "--network=none", "--tmpfs=/x", "--"];
    let ids: Vec<_> = (0..3)
        .map(|_| env.jobctl("user-a", &[&options[..], &["sleep", "600"]].concat()).id())
        .collect();
    let pid = |id: &String| {
        let pid = env.jobctl("user-a", &["inspect", id]).json()["pid"].as_i64().unwrap();
        Pid::from_raw(i32::try_from(pid).unwrap())
    };
    let shim = |pid: Pid| -> Pid {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
        Pid::from_raw(parent.trim().parse().unwrap())
    };
    let pids: Vec<_> = ids.iter().map(pid).collect();
    let shims: Vec<_> = pids.iter().map(|pid| shim(*pid)).collect();
    env.kill_broker();
    // The kernel ends the job with its process 1: nobody else is there to do it.
    for shim in &shims {
        kill(*shim, Signal::SIGKILL).unwrap();
    }
    for pid in pids {
        until("the workload is dead", || (!job_tests::is_running(pid.as_raw())).then_some(()));
    }
    env.start_broker();
    for id in &ids {
        let lost = || {
            let job = env.jobctl("user-a", &["inspect", id]).json();
            (job["state"] == "lost").then_some(())
        };
        until("the job is known to be lost", lost);
    }
    until("their directories are gone", || env.own_dirs().is_empty().then_some(()));
    until("their namespaces are gone", || (namespaces().0.is_subset(&before.0)).then_some(()));
    assert_eq!(namespaces().1, before.1, "the host's mounts");
    env.assert_clean();
}

/// As in a container without privileges.
#[test]
fn a_broker_that_may_not_mount_refuses_what_needs_it_by_name_and_is_never_silently_weaker() {
    if !host::has_program("setpriv", "--version") {
        return;
    }
    for least in ["private", "host"] {
        let sections = format!("[isolation]\nminimum = {least:?}\n");
        let env = Env::builder().sections(&sections).without("sys_admin").start();
        for (options, profile) in [
            (&[][..], "private"),
            (&["--isolation=private"], "private"),
            (&["--isolation=strict"], "strict"),
        ] {
            let error = env.refused(options);
            let words = format!("cannot isolate jobs as \"{profile}\"");
            assert!(error.contains(&words), "{least} {options:?}: {error}");
        }
        let info = env.jobctl("user-a", &["info"]).expect(0).out();
        assert!(info.contains("cannot isolate jobs as \"private\""), "{info}");
        assert!(env.log().contains("cannot isolate jobs as \"private\""));
        if least == "host" {
            assert_eq!(env.sh(&["--isolation=host"], "echo ran"), "ran\n");
        } else {
            assert!(env.refused(&["--isolation=host"]).contains("isolation.minimum"));
        }
        env.assert_clean();
    }
}

/// The cases of bubblewrap's own tests that no other test here has.
#[test]
fn devices_links_and_odd_names_of_programs_are_as_in_bubblewraps_tests() {
    let env = env();
    let devices = "for d in stdin stdout stderr null zero full random urandom tty fd ptmx pts shm; do \
                   [ -e /dev/$d ] || [ -L /dev/$d ] || echo no $d; done; echo x >/dev/null; \
                   head -c 1 /dev/zero | wc -c; [ -w /dev/full ] && (echo x >/dev/full) 2>&1 | wc -l";
    for profile in ["private", "strict"] {
        let isolation = format!("--isolation={profile}");
        assert_eq!(env.sh(&[&isolation], devices), "1\n1\n", "{profile}");
        // A mount over a link is where the link leads to.
        if Path::new("/lib").is_symlink() {
            let options = [&isolation, "--read-only=/etc/ssl", "--volume=/etc/ssl:/lib/locale:ro"];
            let listed = env.sh(&options, "ls /etc/ssl; echo; ls /usr/lib/locale");
            let (there, through) = listed.split_once("\n\n").unwrap();
            assert_eq!(there.trim(), through.trim(), "{profile}");
        }
        let ran = env.jobctl("user-a", &["run", &isolation, "--", "--inadvisable-name", "x"]);
        assert!(ran.code() != 0 && ran.err().contains("--inadvisable-name"), "{}", ran.err());
        let error = env.refused(&[&isolation, "--read-only=/source-enoent"]);
        assert!(error.contains("/source-enoent"), "{error}");
    }
    env.assert_clean();
}
