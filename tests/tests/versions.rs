//! Upgrades and downgrades with jobs running: brokers and shims of two versions, whose protocols
//! really differ (`job_shim::codec`), in every combination; and the look before the leap.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use job_api::v1::job::State;
use job_api::v1::{Cause, JobSpec, UpdateJobRequest};
use job_tests::{Env, Programs, api, oracle, scaled, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::Code;

fn this_version() -> Programs {
    Programs::find()
}

fn next_version() -> Programs {
    Programs::find().of_next_version()
}

/// The oracle as a job that shows a second run, and exits with 7.
fn oracle_spec(env: &Env, lines: u64) -> JobSpec {
    let mut spec = api::spec(&[&env.oracle(), "lines", &lines.to_string(), "10"]);
    spec.env.insert("ORACLE_MARK".into(), env.shared().display().to_string());
    spec.env.insert("ORACLE_EXIT".into(), "7".into());
    spec
}

/// Jobs of `first` in all the ways in which they meet a broker of `second`, and those of that one in
/// the hands of `first`.
async fn there_and_back(first: Programs, second: Programs) {
    let mut env = Env::builder().programs(first.clone()).start();
    let lines = scaled(400, 200);
    let mut writers = Vec::new();
    let mut client = env.client("user-a").await;
    let ended_meanwhile = api::start(&mut client, api::script("sleep 0.3; exit 5")).await.id;
    for programs in [second, first] {
        writers.push(api::start(&mut client, oracle_spec(&env, lines)).await.id);
        let text = "trap 'exit 3' TERM; echo up; sleep 1000 & wait";
        let asked = api::start(&mut client, api::script(text)).await;
        until("the trap is set", || env.stdout_log(&asked.id).contains("up").then_some(()));
        let killed = api::start(&mut client, api::script("trap '' TERM; sleep 1000")).await.id;
        let follower = env.spawn_jobctl("user-a", &["logs", "-q", "-f", &writers[0]]);
        follower.wait_for_bytes(1);

        env.kill_broker();
        env.install(programs);
        env.start_broker();

        client = env.client("user-a").await;
        let adopted = api::job(&mut client, &asked.id).await;
        assert_eq!(adopted.state(), State::Running, "{adopted:?}");
        let update = UpdateJobRequest {
            id: asked.id.clone(),
            time_limit: Some(api::duration(Duration::from_secs(900))),
            ..Default::default()
        };
        let updated = api::updated(&mut client, update).await;
        assert_eq!(api::limit(&updated, "time_limit").applied(), "900s", "{updated:?}");
        assert!(updated.started_at.is_some(), "what the shim tells is understood: {updated:?}");
        api::stop(&mut client, &asked.id, Duration::from_secs(30)).await;
        let stopped = api::ended(&mut client, &asked.id).await;
        assert_eq!((stopped.cause(), stopped.exit_code), (Cause::Stopped, Some(3)), "{stopped:?}");
        assert_eq!(stopped.ended_by, "user-a");
        api::stop(&mut client, &killed, Duration::ZERO).await;
        assert_eq!(api::ended(&mut client, &killed).await.signal, Some(9));
        drop(follower); // its own end is that of the writer
    }
    for id in writers {
        let output = api::output(&mut client, &id).await;
        oracle::assert_whole(&output.stdout, &output.stderr, lines);
        assert_eq!((output.job.exit_code, output.job.cause()), (Some(7), Cause::Exited));
    }
    let job = api::ended(&mut client, &ended_meanwhile).await;
    assert_eq!((job.state(), job.exit_code), (State::Finished, Some(5)));
    env.assert_clean();
}

/// FAULTS 15
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_upgrade_and_the_way_back_are_not_noticed_by_jobs_of_either_version() {
    there_and_back(this_version(), next_version()).await;
}

/// FAULTS 15
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_downgrade_and_the_way_back_are_not_noticed_by_jobs_of_either_version() {
    there_and_back(next_version(), this_version()).await;
}

/// FAULTS 16, in the moment in which one of the two is replaced and the other is not
#[tokio::test]
async fn a_broker_that_finds_a_shim_of_another_version_starts_no_job_with_it_and_says_why() {
    for (broker, shim) in [(this_version(), next_version()), (next_version(), this_version())] {
        let programs = Programs { shim: shim.shim, ..broker };
        let env = Env::builder().programs(programs).start();
        let mut client = env.client("user-a").await;
        let refused = api::try_start(&mut client, api::script("echo no")).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(refused.message().contains("not of one release"), "{refused}");
        env.assert_clean();
    }
}

#[tokio::test]
async fn a_shim_that_is_replaced_under_a_running_broker_is_not_that_brokers() {
    let env = Env::start();
    env.install_shim(&next_version().shim);
    let mut client = env.client("user-a").await;
    let id = api::start(&mut client, api::script("exit 4")).await.id;
    assert_eq!(api::ended(&mut client, &id).await.exit_code, Some(4));
}

fn said(output: &Output) -> (Option<i32>, String) {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// What preflight says where all shims answer in time, which they do.
fn preflight(env: &Env, programs: &Programs) -> (Option<i32>, String) {
    until("all shims answer in time", || {
        let (code, text) = said(&env.preflight(programs));
        (!text.contains("cannot be reached")).then_some((code, text))
    })
}

#[tokio::test]
async fn preflight_asks_every_shim_beside_the_broker_and_changes_nothing() {
    let env = Env::start();
    let (code, text) = said(&env.preflight(&next_version()));
    assert_eq!((code, text.starts_with("0 jobs run")), (Some(0), true), "{text}");

    let mut client = env.client("user-a").await;
    let gate = env.gate();
    let script = format!("echo before; {}; echo after", gate.wait());
    let ids = [
        api::start(&mut client, api::script(&script)).await.id,
        api::start(&mut client, api::script("echo before; sleep 60")).await.id,
    ];
    let [follower, other] = ids.each_ref().map(|id| {
        let follower = env.spawn_jobctl("user-a", &["logs", "-f", id]);
        follower.wait_for_stdout("before");
        follower
    });
    let connections = sockets(env.broker().pid());
    for (programs, words) in [(this_version(), "of them\n"), (next_version(), "some of them 1")] {
        let (code, text) = preflight(&env, &programs);
        assert_eq!(code, Some(0), "{text}");
        assert!(text.starts_with("2 jobs run") && text.contains(words), "{text}");
    }
    assert_eq!(sockets(env.broker().pid()), connections, "the broker has kept its connections");
    gate.open();
    follower.finish().expect(0);
    api::stop(&mut client, &ids[1], Duration::ZERO).await;
    other.finish().expect(0);
}

#[tokio::test]
async fn preflight_tells_of_a_shim_that_no_broker_can_reach_and_does_not_hold_it_against_this_one()
{
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let id = api::start(&mut client, api::script("sleep 60")).await.id;
    let shim = Pid::from_raw(env.cgroup().shim(&id).unwrap());
    kill(shim, Signal::SIGSTOP).unwrap();
    let (code, text) = said(&env.preflight(&this_version()));
    kill(shim, Signal::SIGCONT).unwrap();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains(&id) && text.contains("no answer for 2s"), "{text}");
    api::stop(&mut client, &id, Duration::ZERO).await;
    api::ended(&mut client, &id).await;
}

#[tokio::test]
async fn preflight_fails_for_a_shim_that_speaks_another_language() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let id = api::start(&mut client, api::script("sleep 60")).await.id;
    let record = env.job_dir(&id).join("spawn.json");
    let real = fs::read_to_string(&record).unwrap();
    let mut ours: serde_json::Value = serde_json::from_str(&real).unwrap();
    ours["shim_pid"] = std::process::id().into();
    ours["shim_start_time"] = start_time().into();
    // As a broker wrote it whose records had no checksum.
    ours.as_object_mut().unwrap().retain(|name, _| !["checksum", "crc32"].contains(&name.as_str()));
    fs::write(&record, ours.to_string()).unwrap();
    let socket = env.path("run").join(&id);
    fs::remove_file(&socket).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    // It answers for as long as the test's process lives: one answer may come too late.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 64]);
            let _ = stream.write_all(b"JOB2............");
        }
    });
    let (code, text) = preflight(&env, &this_version());
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(&format!("job {id}: its shim: ")), "{text}");
    assert!(text.contains("speaks JOB2") && text.contains("1 of 1 running jobs"), "{text}");

    fs::write(&record, r#"{"format":2}"#).unwrap();
    let (code, text) = said(&env.preflight(&this_version()));
    fs::write(&record, real).unwrap();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("spawn.json: of format 2"), "{text}");
    api::stop(&mut client, &id, Duration::ZERO).await;
    api::ended(&mut client, &id).await;
}

/// The inodes of a process's sockets: other numbers are other connections (proc_pid_fd(5)).
fn sockets(pid: i32) -> BTreeSet<PathBuf> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let targets = open.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).collect()
}

/// Field 22 of proc_pid_stat(5), of this process.
fn start_time() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    rest.split(' ').nth(19).unwrap().parse().unwrap()
}
