//! The library `job-sandbox`: what it promises, by effect, with the real shim.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Cursor};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use job_sandbox::{Builder, Error, Isolation, Outcome, Sandbox};
use job_tests::host::{self, Need};
use job_tests::{Programs, cgroup_mount, until};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use uuid::Uuid;

const MIB: u64 = 1 << 20;
/// Nobody's account.
const SOMEBODY: u32 = 64_997;

/// A cgroup and a directory that a test's sandboxes are in.
struct Place {
    cgroup: PathBuf,
    state: TempDir,
    programs: Programs,
}

impl Place {
    fn new() -> Place {
        let cgroup = cgroup_mount().join(format!("sandbox-test-{}", Uuid::new_v4()));
        fs::create_dir(&cgroup).unwrap();
        let state = tempfile::tempdir().unwrap();
        fs::set_permissions(state.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Place { cgroup, state, programs: Programs::find() }
    }

    fn builder(&self) -> Builder {
        let shim = &self.programs.shim;
        Sandbox::builder().cgroup(&self.cgroup).state_dir(self.state.path()).shim(shim)
    }

    fn run(&self, builder: Builder, command: &[&str]) -> Outcome {
        builder.build().unwrap().run_blocking(command.to_vec()).unwrap()
    }

    fn sh(&self, builder: Builder, script: &str) -> Outcome {
        self.run(builder, &["sh", "-c", script])
    }

    /// Cgroups and directories of sandboxes, and of commands in them.
    fn left(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut todo = vec![self.cgroup.clone(), self.state.path().to_owned()];
        while let Some(directory) = todo.pop() {
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            let below: Vec<_> = entries.map(|e| e.path()).filter(|path| path.is_dir()).collect();
            found.extend(below.iter().filter(|path| !path.ends_with("bin")).cloned());
            todo.extend(below);
        }
        found
    }

    fn processes(&self) -> BTreeSet<String> {
        let of = |directory: &PathBuf| fs::read_to_string(directory.join("cgroup.procs"));
        let texts = self.left().iter().filter_map(|path| of(path).ok()).collect::<String>();
        texts.lines().map(str::to_owned).collect()
    }

    fn becomes_empty(&self) {
        until("nothing is left of the sandbox", || self.left().is_empty().then_some(()));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        until("the cgroup can go", || fs::remove_dir(&self.cgroup).ok());
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The fields that were refused.
fn refused(result: Result<Sandbox, Error>) -> Vec<&'static str> {
    let error = result.err().unwrap();
    error.refusals().iter().map(|refusal| refusal.field).collect()
}

#[test]
fn an_outcome_says_how_the_command_ended_and_what_it_wrote_and_nothing_is_left_of_it() {
    let place = Place::new();
    let sandbox = place.builder().env("A", "b").workdir("/").build().unwrap();
    let script = "echo $A; pwd; id -u; echo oh >&2; exit 7";
    let outcome = sandbox.run_blocking(["sh", "-c", script]).unwrap();
    assert_eq!((outcome.exit_code, outcome.signal), (Some(7), None));
    assert_eq!(text(&outcome.stdout), "b\n/\n65534\n");
    assert_eq!(text(&outcome.stderr), "oh\n");
    assert!(!outcome.timed_out && !outcome.memory_exceeded && !outcome.cpu_time_exceeded);
    assert!(outcome.duration > Duration::ZERO && outcome.usage.cpu_time.is_some());
    let killed = sandbox.run_blocking(["sh", "-c", "kill -TERM $$"]).unwrap();
    assert_eq!((killed.exit_code, killed.signal), (None, Some(15)));
    drop(sandbox);
    assert_eq!(place.left(), Vec::<PathBuf>::new());
}

#[test]
fn a_command_that_cannot_be_executed_is_an_error_with_its_step() {
    let place = Place::new();
    let sandbox = place.builder().build().unwrap();
    match sandbox.run_blocking(["no-such-program"]) {
        Err(Error::Start { step: "exec", errno: 2, message }) => {
            assert!(message.contains("no-such-program"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_command_that_takes_too_much_memory_is_killed_and_the_outcome_says_so() {
    if !host::has(&[Need::Memory]) {
        return;
    }
    let place = Place::new();
    let load = place.programs.load.to_str().unwrap();
    let limited = || place.builder().read_only_dir(load).memory(32 * MIB);
    let outcome = place.run(limited(), &[load, "fill", "200"]);
    assert!(outcome.memory_exceeded && outcome.signal == Some(9), "{outcome:?}");
    assert!(outcome.usage.memory_peak.is_none_or(|peak| peak <= 33 * MIB), "{outcome:?}");
    let enough = place.run(limited(), &[load, "fill", "4"]);
    assert!(enough.success() && !enough.memory_exceeded, "{enough:?}");
}

#[test]
fn a_command_gets_no_more_processes_than_it_may_have() {
    if !host::has(&[Need::Pids]) {
        return;
    }
    let place = Place::new();
    let load = place.programs.load.to_str().unwrap();
    let builder = place.builder().read_only_dir(load).processes(10);
    let outcome = place.run(builder, &[load, "spawn", "50"]);
    assert!(text(&outcome.stdout).starts_with("made 9 refused 41"), "{outcome:?}");
    assert_eq!(outcome.usage.processes_refused, Some(41), "{outcome:?}");
}

#[test]
fn a_fork_bomb_ends_with_its_timeout_and_leaves_no_process() {
    if !host::has(&[Need::Pids]) {
        return;
    }
    let place = Place::new();
    let builder = place.builder().processes(20).timeout(Duration::from_secs(2));
    let outcome = place.sh(builder, "f() { f | f & }; f; sleep 1000");
    assert!(outcome.timed_out, "{outcome:?}");
    assert!(outcome.usage.processes_peak.is_none_or(|peak| peak <= 20 + 1), "{outcome:?}");
    assert_eq!(place.processes(), BTreeSet::new());
}

#[test]
fn a_command_with_a_fifth_of_a_cpu_is_slowed_down_to_that() {
    if !host::has(&[Need::Cpu]) {
        return;
    }
    let place = Place::new();
    let builder = place.builder().cpu_percent(20).timeout(Duration::from_secs(3));
    let outcome = place.sh(builder, "while :; do :; done");
    let used = outcome.usage.cpu_time.unwrap();
    assert!(outcome.timed_out && used < Duration::from_millis(1_200), "{outcome:?}");
    assert!(outcome.usage.cpu_throttled.unwrap() > Duration::from_millis(500), "{outcome:?}");
}

#[test]
fn what_takes_too_long_is_ended_and_what_uses_up_its_cpu_time_too() {
    let place = Place::new();
    let began = Instant::now();
    let late = place.sh(place.builder().timeout(Duration::from_millis(200)), "sleep 1000");
    assert!(late.timed_out && !late.cpu_time_exceeded && late.signal == Some(9), "{late:?}");
    assert!(late.duration >= Duration::from_millis(200) && began.elapsed() < until_hung());
    let builder = place.builder().cpu_time(Duration::from_millis(200));
    let burnt = place.sh(builder, "while :; do :; done");
    assert!(burnt.cpu_time_exceeded && !burnt.timed_out, "{burnt:?}");
    let graced = place.builder().timeout(Duration::from_millis(200)).stop_timeout(until_hung());
    let asked = place.sh(graced, "trap 'exit 3' TERM; while :; do sleep 0.01; done");
    assert!(asked.timed_out && asked.exit_code == Some(3), "{asked:?}");
}

fn until_hung() -> Duration {
    Duration::from_secs(60)
}

#[test]
fn strict_sees_what_is_named_and_writes_only_where_it_may() {
    let place = Place::new();
    let shared = tempfile::tempdir().unwrap();
    let [named, writable, other] =
        ["named", "writable", "other"].map(|name| shared.path().join(name));
    fs::set_permissions(shared.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for directory in [&named, &writable, &other] {
        fs::create_dir(directory).unwrap();
        fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
        fs::write(directory.join("secret"), "s").unwrap();
    }
    let [n, w, o] = [&named, &writable, &other].map(|path| path.to_str().unwrap());
    let builder = || place.builder().read_only_dir(&named).allow_dir(&writable);
    let seen =
        place.sh(builder(), &format!("cat {n}/secret {w}/secret; ls {o}; ls /home /root /srv"));
    assert_eq!(text(&seen.stdout), "ss", "{seen:?}");
    place.sh(
        builder(),
        &format!("echo x >{n}/new; echo y >{w}/new; echo z >/usr/new; echo z >/new"),
    );
    assert!(!named.join("new").exists() && !Path::new("/usr/new").exists());
    assert_eq!(fs::read_to_string(writable.join("new")).unwrap(), "y\n");
    let elsewhere = place.builder().bind(&named, "/data", true).tmpfs("/scratch", MIB);
    let found = place.sh(elsewhere, "cat /data/secret; head -c 3M /dev/zero >/scratch/a; echo $?");
    assert_eq!(text(&found.stdout), "s1\n", "{found:?}");
}

#[test]
fn private_sees_the_hosts_files_and_neither_its_processes_nor_its_temporary_files() {
    let place = Place::new();
    let mark = tempfile::tempdir_in("/tmp").unwrap();
    let builder = place.builder().isolation(Isolation::Private);
    let outcome = place.sh(
        builder,
        &format!("ls -d {}; ls /etc/passwd; ls -d /proc/[0-9]* | wc -l", mark.path().display()),
    );
    let lines: Vec<_> = text(&outcome.stdout).lines().collect();
    assert_eq!(lines[0], "/etc/passwd", "{outcome:?}");
    assert!(lines[1].trim().parse::<u32>().unwrap() < 6, "{outcome:?}");
}

#[test]
fn without_network_it_sees_no_socket_of_the_host() {
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!(":{:04X} ", listener.local_addr().unwrap().port());
    let look = |network| {
        text(&place.sh(place.builder().network(network), "cat /proc/net/tcp").stdout)
            .contains(&port)
    };
    assert!(look(true) && !look(false));
    let devices = place.sh(
        place.builder().network(false),
        "ls /proc/self/net >/dev/null; grep -c : /proc/net/dev",
    );
    assert_eq!(text(&devices.stdout), "1\n", "loopback alone: {devices:?}");
}

#[tokio::test]
async fn input_and_output_of_some_megabytes_pass_through_the_callers_streams() {
    let place = Place::new();
    let given: Vec<u8> = (0..8 * MIB as usize).map(|n| (n / 7 % 251) as u8).collect();
    let (mut read, write) = tokio::io::duplex(4096);
    let (mut read_err, write_err) = tokio::io::duplex(4096);
    let builder = place.builder().stdin(Cursor::new(given.clone())).stdout(write).stderr(write_err);
    let sandbox = builder.build().unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (outcome, first, second) = tokio::join!(
        sandbox.run(["sh", "-c", "echo begun >&2; cat"]),
        read.read_to_end(&mut out),
        read_err.read_to_end(&mut err),
    );
    first.and(second).unwrap();
    let outcome = outcome.unwrap();
    assert!(outcome.success() && outcome.stdout.is_empty() && outcome.dropped == 0, "{outcome:?}");
    assert!(out == given, "{} of {} bytes", out.len(), given.len());
    assert_eq!(text(&err), "begun\n");
    assert!(
        matches!(sandbox.run(["true"]).await, Err(Error::Refused(_))),
        "streams are for one run"
    );
}

#[test]
fn output_past_the_limit_is_dropped_and_counted() {
    let place = Place::new();
    let outcome = place.sh(place.builder().output_limit(1000), "head -c 3000 /dev/zero");
    assert_eq!((outcome.stdout.len(), outcome.dropped, outcome.exit_code), (1000, 2000, Some(0)));
}

#[test]
fn a_command_that_does_not_read_its_input_ends_all_the_same() {
    let place = Place::new();
    let outcome = place.run(place.builder().stdin(Cursor::new(vec![0; 5 << 20])), &["true"]);
    assert!(outcome.success());
}

#[tokio::test]
async fn a_run_that_is_dropped_leaves_no_process_and_no_cgroup() {
    let place = Place::new();
    let (mut read, write) = tokio::io::duplex(64);
    let sandbox = place.builder().stdout(write).build().unwrap();
    let mut ready = [0; 6];
    {
        let script =
            "setsid sleep 1000 & setsid sh -c 'sleep 1000 & sleep 1000' & echo ready; sleep 1000";
        let run = sandbox.run(["sh", "-c", script]);
        tokio::select! {
            outcome = run => panic!("{outcome:?}"),
            read = read.read_exact(&mut ready) => assert!(read.is_ok()),
        }
    }
    assert_eq!(&ready, b"ready\n");
    drop(sandbox);
    place.becomes_empty();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_commands_run_in_one_sandbox_at_once() {
    let place = Place::new();
    let sandbox = Arc::new(place.builder().build().unwrap());
    let runs: Vec<_> = (0..200)
        .map(|n| {
            let sandbox = Arc::clone(&sandbox);
            tokio::spawn(
                async move { sandbox.run(["sh", "-c", &format!("echo {n}; exit {n}")]).await },
            )
        })
        .collect();
    for (n, run) in runs.into_iter().enumerate() {
        let outcome = run.await.unwrap().unwrap();
        assert_eq!(
            (text(&outcome.stdout).trim(), outcome.exit_code),
            (n.to_string().as_str(), Some(n as i32))
        );
    }
    drop(sandbox);
    place.becomes_empty();
}

#[tokio::test]
async fn a_blocking_run_within_a_runtime_is_refused() {
    let place = Place::new();
    let error = place.builder().build().unwrap().run_blocking(["true"]).unwrap_err();
    assert_eq!(error.refusals()[0].field, "run_blocking");
}

#[test]
fn what_cannot_be_had_is_refused_by_the_name_of_its_method() {
    let place = Place::new();
    let builder = || place.builder();
    assert_eq!(refused(builder().shim("/no/such/shim").build()), ["shim"]);
    assert_eq!(refused(builder().cgroup("/no/cgroup").build()), ["cgroup"]);
    assert_eq!(refused(builder().cgroup("no-such-cgroup").build()), ["cgroup"]);
    assert_eq!(refused(builder().user("root").build()), ["user"]);
    assert_eq!(refused(builder().user("no-such-account").build()), ["user"]);
    assert_eq!(refused(builder().workdir("tmp").build()), ["workdir"]);
    assert_eq!(refused(builder().timeout(Duration::ZERO).build()), ["timeout"]);
    assert_eq!(refused(builder().memory(1).build()), ["memory"]);
    assert_eq!(refused(builder().cpu_percent(0).build()), ["cpu_percent"]);
    assert_eq!(refused(builder().env("LD_PRELOAD", "x").build()), ["env"]);
    assert_eq!(refused(builder().hostname("a b").build()), ["hostname"]);
    let host = refused(builder().read_only_dir("/proc").build());
    assert_eq!(host, ["allow_dir"; 2], "neither from there nor to there");
    assert_eq!(refused(builder().memory(1).processes(0).build()), ["memory", "processes"]);
    let sandbox = builder().build().unwrap();
    assert_eq!(sandbox.run_blocking([""; 0]).unwrap_err().refusals()[0].field, "run");
}

#[test]
fn a_limit_without_its_controller_is_refused_and_nothing_is_left() {
    if !host::lacks(Need::Pids) {
        return;
    }
    let place = Place::new();
    assert_eq!(refused(place.builder().processes(10).build()), ["processes"]);
    assert_eq!(place.left(), Vec::<PathBuf>::new());
}

#[test]
fn a_shim_that_the_program_has_in_itself_is_executed_from_memory() {
    let place = Place::new();
    let program: &'static [u8] = fs::read(&place.programs.shim).unwrap().leak();
    let outcome = place.run(place.builder().shim_bytes(program), &["echo", "hello"]);
    assert_eq!(text(&outcome.stdout), "hello\n");
}

#[test]
fn what_runs_ends_with_the_program_that_runs_it() {
    let place = Place::new();
    let mut command = Command::new(&place.programs.sandboxed);
    command.arg(&place.programs.shim).arg(&place.cgroup).args(["strict", "-"]);
    command.args(["sh", "-c", "setsid sleep 1000 & echo ready; sleep 1000"]);
    let mut program = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(program.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    until("the shim, the shell and two sleeps run", || {
        (place.processes().len() >= 4).then_some(())
    });
    program.kill().unwrap(); // SIGKILL: it drops nothing
    program.wait().unwrap();
    until("its command has ended", || place.processes().is_empty().then_some(()));
    let left = place.left();
    assert!(!left.is_empty(), "a cgroup and a directory are left");
    let next = place.builder().build().unwrap();
    assert!(left.iter().all(|path| !path.exists()), "and gone with the next: {left:?}");
    drop(next);
    assert_eq!(place.left(), Vec::<PathBuf>::new());
}

/// As somebody who is not root, in a cgroup that was given to it as systemd gives one to a user.
fn as_somebody(place: &Place, isolation: &str, processes: &str, command: &[&str]) -> String {
    let bin = place.state.path().join("bin");
    fs::create_dir_all(&bin).unwrap();
    let [shim, program] = [&place.programs.shim, &place.programs.sandboxed].map(|file| {
        let copy = bin.join(file.file_name().unwrap());
        fs::copy(file, &copy).unwrap();
        copy
    });
    let own = place.cgroup.join("main");
    fs::create_dir_all(&own).unwrap();
    let enabled = fs::read_to_string(place.cgroup.join("cgroup.controllers")).unwrap();
    for controller in enabled.split_whitespace() {
        fs::write(place.cgroup.join("cgroup.subtree_control"), format!("+{controller}")).unwrap();
    }
    for file in ["", "cgroup.procs", "cgroup.subtree_control", "main", "main/cgroup.procs"] {
        chown(place.cgroup.join(file), Some(SOMEBODY), Some(SOMEBODY)).unwrap();
    }
    let procs = own.join("cgroup.procs").to_str().unwrap().to_owned();
    // The shell enters the cgroup while it is root.
    let mut somebody = Command::new("sh");
    somebody.args([
        "-c",
        "echo $$ >$0 && exec setpriv --reuid=64997 --regid=64997 --clear-groups \"$@\"",
    ]);
    somebody.arg(procs).arg(program).arg(shim).arg(&place.cgroup).args([isolation, processes]);
    let output = somebody.args(command).env("TMPDIR", "/tmp").process_group(0).output().unwrap();
    fs::remove_dir(own).unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn with_a_delegated_cgroup_whoever_is_not_root_has_limits_and_is_told_what_it_cannot_have() {
    if !host::has_program("setpriv", "--version") {
        return;
    }
    let place = Place::new();
    let said = as_somebody(&place, "host", "-", &["sh", "-c", "id -u; setsid sleep 1000 & exit 3"]);
    assert!(said.starts_with("64997\n") && said.contains("exit_code: Some(3)"), "{said}");
    place.becomes_empty();
    let said = as_somebody(&place, "strict", "-", &["true"]);
    assert!(said.contains("failed refused: isolation: namespaces are made by root"), "{said}");
    if host::has(&[Need::Pids]) {
        let load = place.state.path().join("bin/load");
        fs::copy(&place.programs.load, &load).unwrap();
        let said = as_somebody(&place, "host", "10", &[load.to_str().unwrap(), "spawn", "50"]);
        assert!(said.starts_with("made 9 refused 41"), "{said}");
    }
}
