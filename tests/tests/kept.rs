//! Kept connections: commands share one, need none, and give it up with what it stands for.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use job_certs::{Reason, USER_VALIDITY, days};
use job_tests::{Env, Running, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The directory of the users' sockets, as a login session has one.
fn runtime_dir(env: &Env) -> PathBuf {
    let dir = env.path("runtime");
    let _ = fs::DirBuilder::new().mode(0o700).create(&dir); // of the second call it is there
    dir
}

/// `jobctl` of user-a, with kept connections.
fn spawn(env: &Env, args: &[&str]) -> Running {
    let mut command = env.command("user-a");
    command.env("XDG_RUNTIME_DIR", runtime_dir(env)).env("JOBCTL_PERSIST", "60s");
    command.args(args).stdin(Stdio::null());
    Running::spawn(command)
}

/// Its status and what it printed.
fn jobctl(env: &Env, args: &[&str]) -> (i32, String) {
    let ended = spawn(env, args).finish();
    (ended.code(), ended.out() + &ended.err())
}

/// Opens a connection; the pid of whoever holds it.
fn connect(env: &Env) -> Pid {
    let (status, said) = jobctl(env, &["connect"]);
    assert_eq!(status, 0, "{said}");
    let pid = said.split(' ').nth(1).and_then(|pid| pid.parse().ok());
    Pid::from_raw(pid.unwrap_or_else(|| panic!("{said}")))
}

fn is_kept(env: &Env) -> bool {
    jobctl(env, &["connect", "--status"]).0 == 0
}

/// How many connections of user-a the broker has accepted.
fn accepted(env: &Env) -> usize {
    let is_one = |line: &&str| line.contains(" connected") && line.contains("user-a");
    env.log().lines().filter(is_one).count()
}

#[test]
fn commands_share_one_connection_until_it_is_given_up() {
    let env = Env::start();
    let holder = connect(&env);
    let before = accepted(&env);
    assert_eq!(jobctl(&env, &["run", "--", "sh", "-c", "echo out; exit 3"]).0, 3);
    let script = ["run", "--", "sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x"];
    let together: Vec<_> = (0..4).map(|_| spawn(&env, &script)).collect();
    for running in together {
        assert_eq!(running.finish().expect(0).stdout.len(), 3_000_000);
    }
    assert_eq!(jobctl(&env, &["ps", "-q"]), (0, String::new()));
    assert_eq!(connect(&env), holder, "there is one already");
    assert_eq!(accepted(&env), before);
    assert_eq!(jobctl(&env, &["connect", "--stop"]).0, 0);
    until("it has ended", || (!is_kept(&env)).then_some(()));
}

#[test]
fn the_first_command_leaves_a_connection_behind_and_holds_up_nobody() {
    let env = Env::start();
    // Finished as soon as its output is closed: the process that stays has none of it.
    assert_eq!(jobctl(&env, &["run", "--", "echo", "hello"]), (0, "hello\n".into()));
    until("a connection is kept", || is_kept(&env).then_some(()));
    let before = accepted(&env);
    assert_eq!(jobctl(&env, &["ps", "-q"]).0, 0);
    assert_eq!(accepted(&env), before);
    let socket = fs::read_dir(runtime_dir(&env).join("jobctl")).unwrap().flatten();
    for file in socket {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
    }
}

#[test]
fn without_persist_nothing_is_started() {
    let env = Env::start();
    let mut command = env.command("user-a");
    command.env("XDG_RUNTIME_DIR", runtime_dir(&env)).args(["run", "--", "true"]);
    Running::spawn(command).finish().expect(0);
    assert_eq!(fs::read_dir(runtime_dir(&env)).unwrap().count(), 0);
    let mut command = env.command("user-a");
    command.env("XDG_RUNTIME_DIR", runtime_dir(&env)).arg("connect");
    let refused = Running::spawn(command).finish();
    assert!(refused.expect(125).err().contains("--persist 10m"), "{}", refused.err());
}

#[test]
fn whoever_follows_a_job_notices_the_end_of_the_holder_as_that_of_a_connection() {
    let env = Env::start();
    let holder = connect(&env);
    let script = "echo first; while [ ! -e go ]; do sleep 0.05; done; echo last; exit 4";
    let dir = env.shared();
    let words = ["run", "-w", dir.to_str().unwrap(), "--", "sh", "-c", script];
    let running = spawn(&env, &words);
    running.wait_for_stdout("first\n");
    kill(holder, Signal::SIGKILL).unwrap();
    running.wait_for_stderr("reconnected");
    fs::write(dir.join("go"), "").unwrap();
    let ended = running.finish();
    assert_eq!(ended.expect(4).out(), "first\nlast\n");
    // Its socket is still there. It is in nobody's way, and another takes its place.
    assert_eq!(jobctl(&env, &["ps", "-q"]).0, 0);
    assert_ne!(connect(&env), holder);
}

#[test]
fn a_holder_that_is_stopped_holds_up_a_command_for_a_moment() {
    let env = Env::start();
    let holder = connect(&env);
    kill(holder, Signal::SIGSTOP).unwrap();
    let before = accepted(&env);
    assert_eq!(jobctl(&env, &["ps", "-q"]).0, 0);
    assert_eq!(accepted(&env), before + 1);
    kill(holder, Signal::SIGKILL).unwrap();
}

#[test]
fn a_directory_of_others_and_a_caller_of_another_account_are_refused() {
    let env = Env::start();
    let dir = runtime_dir(&env).join("jobctl");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(jobctl(&env, &["ps", "-q"]).0, 0);
    let (status, said) = jobctl(&env, &["connect"]);
    assert!(status == 255 && said.contains("is not a directory of yours alone"), "{said}");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    connect(&env);
    // Should they ever come so far: with all doors open it is still asked who comes.
    for dir in [env.path(""), runtime_dir(&env), dir.clone()] {
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o711)).unwrap();
    }
    let files = fs::read_dir(&dir).unwrap().flatten().map(|file| file.path());
    let socket = files.into_iter().find(|file| file.extension().is_none()).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    let ask = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n\
               print(len(s.recv(1)))";
    let ask = |uid| {
        let mut python = Command::new("python3");
        let output = python.args(["-c", ask]).arg(&socket).uid(uid).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    assert_eq!((ask(0), ask(65_534)), ("1".into(), "0".into()));
}

#[test]
fn another_certificate_has_another_connection() {
    let env = Env::start();
    connect(&env);
    let (old, new) = (env.identity("user-a"), env.path("new"));
    let new = env.pki().issue_user("user-a", Some(&new), USER_VALIDITY).unwrap();
    fs::copy(new.certificate, old.certificate).unwrap();
    fs::copy(new.key, old.key).unwrap();
    assert!(!is_kept(&env));
    assert_eq!(jobctl(&env, &["ps", "-q"]).0, 0);
}

#[test]
fn whoever_is_revoked_loses_the_kept_connection_too() {
    let mut env = Env::start();
    env.pki().write_crl(days(1), None).unwrap();
    env.set_tls(&format!("crl = [\"{}\"]\n", env.path("pki/ca.crl").display()));
    env.reload_and_wait();
    connect(&env);
    assert_eq!(jobctl(&env, &["ps", "-q"]).0, 0);
    env.pki().revoke("user-a", Reason::KeyCompromise).unwrap();
    env.pki().write_crl(days(1), None).unwrap();
    env.reload_broker();
    until("the connection is cut", || (!is_kept(&env)).then_some(()));
    let (status, said) = jobctl(&env, &["ps"]);
    assert!(status != 0 && said.contains("your certificate is revoked"), "{said}");
}

#[test]
fn a_connection_that_nobody_uses_ends_by_itself() {
    let env = Env::start();
    let mut command = env.command("user-a");
    command.env("XDG_RUNTIME_DIR", runtime_dir(&env)).env("JOBCTL_PERSIST", "1s").arg("connect");
    Running::spawn(command).finish().expect(0);
    let files = || fs::read_dir(runtime_dir(&env).join("jobctl")).unwrap().flatten();
    let is_socket = |file: fs::DirEntry| file.file_type().unwrap().is_socket();
    until("its socket is gone", || (!files().any(is_socket)).then_some(()));
    assert_eq!(jobctl(&env, &["ps", "-q"]).0, 0);
}

#[test]
fn a_kept_connection_ends_with_its_certificate() {
    let env = Env::start();
    let (old, new) = (env.identity("user-a"), env.path("short"));
    let validity = Duration::from_secs(3);
    let new = env.pki().issue_user("user-a", Some(&new), validity).unwrap();
    fs::copy(new.certificate, old.certificate).unwrap();
    fs::copy(new.key, old.key).unwrap();
    connect(&env);
    until("the connection is cut", || (!is_kept(&env)).then_some(()));
    let (status, said) = jobctl(&env, &["ps"]);
    assert!(status != 0 && said.contains("expired"), "{said}");
}
