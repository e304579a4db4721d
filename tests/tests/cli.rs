//! jobctl against a real broker: what scripts and people rely on.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use job_tests::{Env, until};
use nix::sys::signal::Signal;

#[test]
fn start_prints_the_id_and_wait_exits_as_the_job_did() {
    let env = Env::start();
    let started = env.jobctl("user-a", &["start", "--", "sh", "-c", "exit 9"]);
    let id = started.id();
    assert_eq!(started.out(), format!("{id}\n"));
    assert_eq!((id.len(), started.err()), (36, String::new()));
    assert_eq!(env.jobctl("user-a", &["wait", &id]).code(), 9);
}

#[test]
fn a_job_is_named_by_id_by_a_unique_beginning_and_by_name() {
    let env = Env::start();
    let id = env.jobctl("user-a", &["start", "--name", "web", "--", "echo", "hello"]).id();
    env.jobctl("user-a", &["wait", "--until", "end", &id]).expect(0);
    for name in [id.as_str(), &id[..30], "web"] {
        assert_eq!(env.jobctl("user-a", &["logs", name]).out(), "hello\n", "{name}");
    }
    let unknown = env.jobctl("user-a", &["logs", "no-such-job"]);
    assert_eq!((unknown.code(), unknown.out()), (1, String::new()));
    assert!(unknown.err().contains("no-such-job"), "{}", unknown.err());
}

#[test]
fn ps_lists_what_lives_and_with_a_what_has_ended() {
    let env = Env::start();
    let done = env.jobctl("user-a", &["start", "--name", "done", "--", "sh", "-c", "exit 4"]).id();
    let is_running =
        env.jobctl("user-a", &["start", "--name", "lives", "--", "sleep", "1000"]).id();
    env.jobctl("user-a", &["wait", "--until", "end", &done]).expect(4);
    assert_eq!(env.jobctl("user-a", &["ps", "-q"]).out(), format!("{is_running}\n"));
    assert_eq!(env.jobctl("user-a", &["ps", "-a", "-q"]).out(), format!("{is_running}\n{done}\n"));
    let table = env.jobctl("user-a", &["ps", "-a", "-o", "wide"]).out();
    let mut lines = table.lines();
    let head = lines.next().unwrap().to_lowercase();
    for column in ["id", "name", "owner", "state", "cause", "exit", "pid", "started", "command"] {
        assert!(head.contains(column), "{column}: {head}");
    }
    assert!(lines.next().unwrap().contains("lives"), "{table}");
    assert!(!table.contains('\x1b'), "no colours but on a terminal");
    let jobs = env.jobctl("user-a", &["ps", "-a", "-o", "json"]).json();
    let jobs = jobs["jobs"].as_array().unwrap();
    assert_eq!((&jobs[0]["state"], &jobs[1]["state"]), (&"running".into(), &"finished".into()));
    assert_eq!((&jobs[1]["exit_code"], &jobs[1]["name"]), (&4.into(), &"done".into()));
}

#[test]
fn json_and_yaml_have_the_field_names_of_the_proto() {
    let env = Env::start();
    let id = env.jobctl("user-a", &["start", "-l", "team=db", "--", "sh", "-c", "kill -9 $$"]).id();
    env.jobctl("user-a", &["wait", "--until", "end", &id]).expect(137);
    let job = env.jobctl("user-a", &["inspect", &id]).json();
    assert_eq!((&job["id"], &job["owner"]), (&id.clone().into(), &"user-a".into()));
    assert_eq!((&job["signal"], &job["cause"]), (&9.into(), &"signaled".into()));
    assert_eq!(job["spec"]["labels"]["team"], "db");
    assert!(job.get("exit_code").is_none(), "it did not exit by itself: {job}");
    let yaml = env.jobctl("user-a", &["inspect", &id, "-o", "yaml"]).out();
    assert!(yaml.contains("cause: signaled\n") && yaml.contains("stdout_bytes: 0\n"), "{yaml}");
}

#[test]
fn values_of_variables_are_never_shown() {
    let env = Env::start();
    let id = env.jobctl("user-a", &["start", "-e", "TOKEN=secret", "--", "true"]).id();
    env.jobctl("user-a", &["wait", "--until", "end", &id]).expect(0);
    let shown = env.jobctl("user-a", &["inspect", &id]).out();
    assert!(shown.contains("TOKEN") && !shown.contains("secret"), "{shown}");
    let spec = std::fs::read_to_string(env.job_dir(&id).join("spec.json")).unwrap();
    assert!(!spec.contains("secret"), "{spec}");
    assert!(!env.log().contains("secret"), "nor in the broker's log");
}

#[test]
fn info_and_whoami_tell_where_and_who_one_is() {
    let env = Env::builder().admin("admin").start();
    let info = env.jobctl("user-a", &["info", "-o", "json"]).json();
    assert_eq!(info["cgroup"], env.cgroup().path().display().to_string());
    assert_eq!(info["run_as"][0], "nobody");
    let me = env.jobctl("admin", &["auth", "whoami", "-o", "json"]).json();
    assert_eq!((&me["identity"], &me["admin"]), (&"admin".into(), &true.into()));
    let version = env.jobctl("user-a", &["version"]).out();
    assert!(version.contains(info["version"].as_str().unwrap()), "{version}");
}

#[test]
fn ctrl_c_reaches_the_job() {
    let env = Env::start();
    let text = "trap 'echo caught; exit 5' INT; echo up; while :; do sleep 0.05; done";
    let running = env.spawn_jobctl("user-a", &["run", "--", "sh", "-c", text]);
    running.wait_for_stdout("up");
    running.signal(Signal::SIGINT);
    let ran = running.finish();
    assert_eq!((ran.code(), ran.out()), (5, "up\ncaught\n".into()), "{}", ran.err());
}

#[test]
fn logs_follow_tail_and_continue_from_a_byte() {
    let env = Env::start();
    let id = env.jobctl("user-a", &["start", "--", "sh", "-c", "seq 1 100; echo err >&2"]).id();
    env.jobctl("user-a", &["wait", "--until", "end", &id]).expect(0);
    let followed = env.jobctl("user-a", &["logs", "-f", &id]);
    assert_eq!((followed.out().lines().count(), followed.err()), (100, "err\n".into()));
    let tail = env.jobctl("user-a", &["logs", "--stream", "stdout", "--tail", "2", &id]);
    assert_eq!((tail.out(), tail.err()), ("99\n100\n".into(), String::new()));
    let from = ["logs", "--stream", "stdout", "--from-offset", "286", &id];
    assert_eq!(env.jobctl("user-a", &from).out(), followed.out()[286..]);
    let streamed = env.jobctl("user-a", &["stream", &id]);
    assert_eq!(streamed.out(), followed.out());
}

#[test]
fn rm_removes_what_has_ended_and_prune_the_rest() {
    let env = Env::start();
    let is_running = env.jobctl("user-a", &["start", "--", "sleep", "1000"]).id();
    assert_eq!(env.jobctl("user-a", &["rm", &is_running]).code(), 1, "it lives");
    env.jobctl("user-a", &["rm", "-f", &is_running]).expect(0);
    assert!(!env.job_dir(&is_running).exists());
    let id = env.jobctl("user-a", &["start", "--", "true"]).id();
    env.jobctl("user-a", &["wait", "--until", "end", &id]).expect(0);
    env.jobctl("user-a", &["prune", "--older-than", "1h"]).expect(0);
    assert!(env.job_dir(&id).exists(), "it is younger");
    env.jobctl("user-a", &["prune", "--older-than", "0s"]).expect(0);
    assert!(!env.job_dir(&id).exists());
}

#[test]
fn kill_sends_the_signal_that_is_named() {
    let env = Env::start();
    let id = env.jobctl("user-a", &["start", "--", "sleep", "1000"]).id();
    env.jobctl("user-a", &["kill", "-s", "USR1", &id]).expect(0);
    assert_eq!(env.jobctl("user-a", &["wait", &id]).code(), 128 + 10);
    assert_eq!(env.jobctl("user-a", &["kill", "-s", "USR1", &id]).code(), 1, "it has ended");
}

#[test]
fn without_a_broker_jobctl_says_so_and_exits_255() {
    let mut env = Env::start();
    env.stop_broker();
    let ran = env.jobctl("user-a", &["run", "--reconnect-timeout", "0", "--", "true"]);
    assert_eq!((ran.code(), ran.out()), (255, String::new()));
    assert!(ran.err().contains(&env.addr()), "{}", ran.err());
}

#[test]
fn a_lost_connection_for_good_exits_255_and_the_job_goes_on() {
    let mut env = Env::start();
    let args = ["run", "--reconnect-timeout", "300ms", "--", "sh", "-c", "echo up; sleep 1000"];
    let running = env.spawn_jobctl("user-a", &args);
    running.wait_for_stdout("up");
    env.kill_broker();
    let ran = running.finish();
    assert_eq!(ran.code(), 255, "{}", ran.err());
    env.start_broker();
    until("the job is there", || {
        (env.jobctl("user-a", &["ps", "-q"]).out().lines().count() == 1).then_some(())
    });
}
