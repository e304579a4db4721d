//! `jobctl run` when its broker dies, or its user presses Ctrl-C, before there is an answer.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt as _;

use job_shim::crash::Point;
use job_tests::{Env, Hold, Running, until};
use nix::sys::signal::Signal;

/// `run` of a job that does not end, whose start the broker holds when the job has begun.
fn held(env: &mut Env) -> (Running, Hold) {
    let hold = Hold::at(env, Point::StartedHeard.name());
    let running = env.spawn_jobctl("user-a", &["run", "--", "sleep", "1000"]);
    hold.is_reached();
    (running, hold)
}

/// One call starts and streams: what it lost with its broker it asks for again, with the same request.
#[test]
fn jobctl_run_outlives_a_broker_that_dies_before_its_answer_and_runs_its_job_once() {
    let mut env = Env::start();
    let points = [Point::JobRegistered, Point::SpecDurable, Point::StartedHeard];
    for point in points {
        let mark = env.path(point.name());
        env.crash_brokers(Some(format!("{}:1:{}", point.name(), mark.display())));
        env.restart_broker();
        let running = env.spawn_jobctl("user-a", &["run", "--", "sh", "-c", "echo ran"]);
        until("the broker has died", || env.broker_has_died().then_some(()));
        env.crash_brokers(None);
        assert!(env.try_revive_broker(), "{}", env.log());
        let ran = running.finish();
        assert_eq!((ran.code(), ran.out()), (0, "ran\n".into()), "{}: {}", point.name(), ran.err());
    }
    // One that had not been told to run is on record as a start that failed.
    let jobs = env.jobctl("user-a", &["ps", "-a", "-o", "json"]).json();
    let have_run = jobs["jobs"].as_array().unwrap().iter().filter(|job| job["exit_code"] == 0);
    assert_eq!(have_run.count(), points.len(), "{jobs}");
}

#[test]
fn ctrl_c_before_the_answer_is_for_the_job() {
    let mut env = Env::start();
    let (running, hold) = held(&mut env);
    running.signal(Signal::SIGINT);
    hold.let_go();
    let ran = running.finish();
    assert_eq!(ran.code(), 128 + Signal::SIGINT as i32, "{}", ran.err());
    let jobs = env.jobctl("user-a", &["ps", "-a", "-o", "json"]).json();
    assert_eq!(jobs["jobs"][0]["signal"], Signal::SIGINT as i32, "{jobs}");
    env.assert_clean();
}

/// Nobody may have to wait for a broker that does not answer.
#[test]
fn the_third_ctrl_c_before_the_answer_ends_run_and_the_job_goes_on() {
    let mut env = Env::start();
    let (mut running, hold) = held(&mut env);
    // Two that come at once are one.
    until("it gives up", || {
        running.signal(Signal::SIGINT);
        running.has_ended().then_some(())
    });
    let ran = running.finish();
    assert_eq!(ran.code(), 130, "{}", ran.err());
    assert!(ran.err().contains("gave up before the broker answered"), "{}", ran.err());
    hold.let_go();
    let jobs = env.jobctl("user-a", &["ps", "-o", "json"]).json();
    assert_eq!(jobs["jobs"][0]["state"], "running", "{jobs}");
    let id = jobs["jobs"][0]["id"].as_str().unwrap();
    env.jobctl("user-a", &["stop", "-t", "0", id]).expect(0);
    env.assert_clean();
}

/// There is no job yet that it could be for.
#[test]
fn ctrl_c_while_it_connects_ends_it_at_once() {
    let env = Env::start();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = silent.local_addr().unwrap().to_string();
    let running = env.spawn_jobctl("user-a", &["--addr", &addr, "run", "--", "true"]);
    let (mut connection, _) = silent.accept().unwrap();
    connection.read_exact(&mut [0]).unwrap(); // of its handshake, which nobody answers
    running.signal(Signal::SIGINT);
    let ran = running.finish();
    assert_eq!(ran.status.signal(), Some(Signal::SIGINT as i32), "{ran:?}");
}
