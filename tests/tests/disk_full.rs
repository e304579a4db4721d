//! A disk that is full: nothing is lost.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::time::Duration;

use job_api::client::Client;
use job_api::v1::job::State;
use job_api::v1::{Cause, DeleteJobRequest, Job, JobSpec};
use job_tests::{Env, api, oracle, trials, until};

/// Almost twice what the two pipes hold, 1 MiB each: a job that nobody drains has to wait.
const LINES: u64 = 30_000;

/// A state directory that is soon full.
fn start() -> Env {
    Env::builder().admin("admin").state_disk("16M").start()
}

/// Takes all that is left, to the last byte.
fn fill(env: &Env) -> PathBuf {
    let path = env.path("state/filler");
    let mut filler = File::create(&path).unwrap();
    for size in [1 << 20, 4096, 1] {
        let piece = vec![b'x'; size];
        loop {
            match filler.write(&piece) {
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::StorageFull => break,
                Err(e) => panic!("{e}"),
            }
        }
    }
    path
}

/// A job that waits at a gate before it writes its lines and exits with 7.
fn writer(env: &Env, gate: &job_tests::Gate) -> JobSpec {
    api::script(&format!("{}; {} lines {LINES}; exit 7", gate.wait(), env.oracle()))
}

fn is_blocked(job: &Job) -> bool {
    job.warnings.iter().any(|warning| warning.contains("No space") || warning.contains("full"))
}

/// FAULTS 23
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_full_disk_blocks_the_job_the_status_says_so_and_it_resumes_intact() {
    let mut env = start();
    for restart in [false, true] {
        let gate = env.gate();
        let mut client = env.client("user-a").await;
        let id = api::start(&mut client, writer(&env, &gate)).await.id;
        let filler = fill(&env);
        gate.open();
        api::becomes(&mut client, &id, is_blocked).await;
        assert_eq!(api::job(&mut client, &id).await.state(), State::Running);
        let shown = env.jobctl("user-a", &["status", &id]).out();
        assert!(shown.contains("full") || shown.contains("No space"), "{shown}");
        if restart {
            env.kill_broker();
        }
        fs::remove_file(filler).unwrap();
        if restart {
            env.start_broker();
        }
        let mut client = env.client("user-a").await;
        let output = api::output(&mut client, &id).await;
        oracle::assert_whole(&output.stdout, &output.stderr, LINES);
        let job = output.job;
        assert_eq!((job.exit_code, job.dropped_bytes, job.incomplete), (Some(7), 0, false));
        assert!(!is_blocked(&job), "{:?}", job.warnings);
        client.delete_job(DeleteJobRequest { id }).await.unwrap(); // there is little room
    }
    env.assert_clean();
}

/// FAULTS 24
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_full_disk_does_not_lose_how_a_job_ended() {
    let mut env = start();
    for broker in [true, false] {
        let gate = env.gate();
        let mut client = env.client("user-a").await;
        let text = format!("echo up; {}; exit 7", gate.wait());
        let id = api::start(&mut client, api::script(&text)).await.id;
        until("it is up", || env.stdout_log(&id).contains("up").then_some(()));
        let filler = fill(&env);
        if broker {
            gate.open();
            assert_eq!(api::exited(&mut client, &id).await.exit_code, Some(7));
            let is_tried = || env.log().contains("cannot be recorded yet").then_some(());
            until("its end does not fit", is_tried);
        } else {
            env.kill_broker();
            gate.open();
            until("it has ended", || env.cgroup().shim(&id).is_none().then_some(()));
        }
        let record = fs::read(env.job_dir(&id).join("exit")).unwrap();
        assert!(record.iter().any(|byte| *byte != 0), "the exit record is there");
        fs::remove_file(filler).unwrap();
        if !broker {
            env.start_broker();
        }
        until("it is on record", || env.job_dir(&id).join("final.json").exists().then_some(()));
        env.restart_broker();
        let mut client = env.client("user-a").await;
        let job = api::ended(&mut client, &id).await;
        let ended = (job.state(), job.cause(), job.exit_code);
        assert_eq!(ended, (State::Finished, Cause::Exited, Some(7)));
        let usage = job.usage.unwrap();
        assert!(usage.cpu_usage_usec.is_some(), "nor what it has used: {usage:?}");
        assert_eq!(api::output(&mut client, &id).await.stdout, b"up\n");
    }
    env.assert_clean();
}

/// A job that writes without end, once the disk blocks it, and what fills that. `None` if its deadline
/// came first.
async fn block(env: &Env, client: &mut Client, deadline: Option<u64>) -> Option<(String, PathBuf)> {
    let gate = env.gate();
    // More than pipes hold: it cannot end by itself.
    let endless = format!("{}; exec {} lines 1000000", gate.wait(), env.oracle());
    let mut spec = api::script(&endless);
    spec.time_limit = deadline.map(|seconds| api::duration(Duration::from_secs(seconds)));
    let id = api::start(client, spec).await.id;
    let filler = fill(env);
    gate.open();
    let is_ending = |job: &Job| matches!(job.state(), State::Stopping | State::Finished);
    let job = api::becomes(client, &id, |job| is_blocked(job) || is_ending(job)).await;
    if is_blocked(&job) {
        return Some((id, filler));
    }
    assert!(deadline.is_some(), "{job:?}");
    fs::remove_file(filler).unwrap();
    api::ended(client, &id).await;
    None
}

/// FAULTS 23
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_job_that_a_full_disk_blocks_is_stopped_and_meets_its_deadline() {
    let env = start();
    let mut client = env.client("user-a").await;
    for deadline in [false, true] {
        let (id, filler) = if deadline {
            let mut seconds = 1;
            let once_in_time = async || {
                seconds *= 2; // not every host is as fast
                block(&env, &mut client, Some(seconds)).await
            };
            trials(once_in_time, Option::is_some).await.unwrap()
        } else {
            block(&env, &mut client, None).await.unwrap()
        };
        if !deadline {
            api::stop(&mut client, &id, Duration::from_millis(100)).await;
        }
        // With the disk as full as ever. What it does not take is dropped, counted and told.
        let job = api::ended(&mut client, &id).await;
        let cause = if deadline { Cause::TimedOut } else { Cause::Stopped };
        assert_eq!((job.cause(), job.signal, job.incomplete), (cause, Some(15), true), "{job:?}");
        assert!(job.dropped_bytes > 0, "{job:?}");
        // What was kept is whole as far as it goes.
        let output = api::output(&mut client, &id).await;
        assert_eq!(output.stdout.len() as u64, job.stdout_bytes);
        let lines = output.stdout.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        oracle::verify('o', &output.stdout[..lines]).unwrap();
        env.jobctl("user-a", &["rm", &id]).expect(0);
        assert!(!env.job_dir(&id).exists());
        fs::remove_file(filler).unwrap();
    }
    env.assert_clean();
}

/// FAULTS 35
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_job_that_ended_by_itself_waits_for_a_full_disk_until_its_deadline_or_a_stop() {
    let mut env = start();
    let mut client = env.client("user-a").await;
    for deadline in [false, true] {
        let gate = env.gate();
        // As much as a pipe holds: it can end, and its output is still there.
        let text = format!("{}; head -c 700000 /dev/zero; exit 7", gate.wait());
        let mut spec = api::script(&text);
        spec.time_limit = deadline.then(|| api::duration(Duration::from_secs(20)));
        let id = api::start(&mut client, spec).await.id;
        let filler = fill(&env);
        gate.open();
        assert_eq!(api::exited(&mut client, &id).await.exit_code, Some(7));
        if !deadline {
            api::becomes(&mut client, &id, is_blocked).await;
            env.restart_broker();
            client = env.client("admin").await;
            let waits = api::exited(&mut client, &id).await;
            assert_ne!(waits.state(), State::Finished, "without a limit it waits");
            // A stop that could neither be told nor recorded would be refused.
            api::becomes(&mut client, &id, |job| !job.recovering).await;
            api::stop(&mut client, &id, Duration::ZERO).await;
        }
        let job = api::ended(&mut client, &id).await;
        assert_eq!((job.cause(), job.exit_code), (Cause::Exited, Some(7)), "its own end stands");
        assert!(job.incomplete, "{job:?}");
        assert_eq!(job.stdout_bytes + job.dropped_bytes, 700_000, "{job:?}");
        fs::remove_file(filler).unwrap();
        env.restart_broker();
        client = env.client("user-a").await;
        let read_again = api::ended(&mut client, &id).await;
        assert_eq!(read_again.dropped_bytes, job.dropped_bytes);
        assert!(read_again.incomplete);
        client.delete_job(DeleteJobRequest { id }).await.unwrap(); // there is little room
    }
    env.assert_clean();
}

/// FAULTS 35
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_job_that_fills_the_disk_leaves_room_for_the_starts_and_ends_of_others() {
    let env = Env::builder().state_disk("24M").start();
    let mut client = env.client("user-a").await;
    let endless = format!("exec {} lines 100000000", env.oracle());
    let id = api::start(&mut client, api::script(&endless)).await.id;
    api::becomes(&mut client, &id, is_blocked).await;
    for _ in 0..3 {
        let other = env.jobctl("user-b", &["run", "--", "echo", "on"]);
        assert_eq!(other.out(), "on\n", "{}", other.err());
    }
    env.jobctl("user-a", &["rm", "--force", &id]).expect(0);
    assert!(!env.job_dir(&id).exists());
    env.assert_clean();
}

/// FAULTS 23, 24: nobody else could stop and remove what has filled it.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn on_a_full_disk_a_broker_starts_and_jobs_are_stopped_and_removed() {
    let mut env = start();
    let gate = env.gate();
    let mut client = env.client("user-a").await;
    let writer = api::start(&mut client, writer(&env, &gate)).await.id;
    let kept = api::start(&mut client, api::script("head -c 4M /dev/zero")).await.id;
    api::ended(&mut client, &kept).await;
    let filler = fill(&env);
    gate.open();
    api::becomes(&mut client, &writer, is_blocked).await;
    env.kill_broker();
    env.start_broker();

    let mut client = env.client("user-a").await;
    // A stop that could neither be told nor recorded would be refused.
    api::becomes(&mut client, &writer, |job| !job.recovering).await;
    api::stop(&mut client, &writer, Duration::ZERO).await;
    assert_eq!(api::exited(&mut client, &writer).await.signal, Some(9));
    env.jobctl("user-a", &["rm", &kept]).expect(0);
    assert!(!env.job_dir(&kept).exists());
    // Which makes room for what the pipes of the other one still hold.
    env.jobctl("user-a", &["wait", "--until", "end", "-q", &writer]).expect(137);
    env.jobctl("user-a", &["rm", &writer]).expect(0);
    fs::remove_file(filler).unwrap();
    assert_eq!(env.jobctl("user-a", &["run", "--", "echo", "on"]).out(), "on\n");
    env.assert_clean();
}
