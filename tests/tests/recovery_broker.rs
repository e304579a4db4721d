//! Brokers that die, stop, come back or come twice: jobs do not notice.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::thread;
use std::time::Duration;

use job_api::v1::job::State;
use job_api::v1::{
    Cause, GetServerInfoRequest, Job, JobSpec, ListJobsRequest, Source, StartJobRequest,
};
use job_tests::oracle;
use job_tests::{Env, Running, api, scaled, trials, until};
use nix::sys::signal::Signal;

/// The oracle as a job that shows a second run, and exits with 7.
fn oracle_spec(env: &Env, args: &[&str]) -> JobSpec {
    let program = env.oracle();
    let mut spec = api::spec(&[&[program.as_str()], args].concat());
    spec.env.insert("ORACLE_MARK".into(), env.shared().display().to_string());
    spec.env.insert("ORACLE_EXIT".into(), "7".into());
    spec
}

fn follow(env: &Env, id: &str) -> Running {
    // Quiet: standard error is the job's alone.
    env.spawn_jobctl("user-a", &["logs", "-q", "-f", id])
}

/// Nothing of a job's workload and of its shim is left.
fn wait_for_end_of(env: &Env, id: &str) {
    until("workload and shim have ended", || {
        (env.cgroup().work(id).is_empty() && env.cgroup().shim(id).is_none()).then_some(())
    });
}

/// FAULTS 1
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn jobs_that_write_do_not_notice_a_broker_killed_with_9() {
    let mut env = Env::start();
    let (jobs, lines) = scaled((100, 300), (12, 100));
    let mut client = env.client("user-a").await;
    let spec = oracle_spec(&env, &["lines", &lines.to_string(), "10"]);
    let mut ids = Vec::new();
    for _ in 0..jobs {
        ids.push(api::start(&mut client, spec.clone()).await.id);
    }
    let followers: Vec<_> = ids[ids.len() - 3..].iter().map(|id| follow(&env, id)).collect();
    followers.iter().for_each(|follower| follower.wait_for_bytes(1));
    env.restart_broker();
    let mut client = env.client("user-a").await;
    for id in &ids {
        let output = api::output(&mut client, id).await;
        oracle::assert_whole(&output.stdout, &output.stderr, lines);
        assert_eq!((output.job.exit_code, output.job.cause()), (Some(7), Cause::Exited));
    }
    for follower in followers {
        let ended = follower.finish();
        ended.expect(0);
        oracle::assert_whole(&ended.stdout, &ended.stderr, lines);
    }
    assert_eq!(fs::read_dir(env.shared()).unwrap().count(), jobs, "each ran once");
    env.assert_clean();
}

/// FAULTS 2
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn fifty_restarts_under_load_lose_and_double_nothing() {
    const RESTARTS: u64 = 50;
    let mut env = Env::start();
    let gate = env.gate();
    let mut client = env.client("user-a").await;
    // It writes until all restarts are done.
    let endless = format!("{} lines 3000000 5 & {}; kill $!", env.oracle(), gate.wait());
    let long = api::start(&mut client, api::script(&endless)).await.id;
    let follower = follow(&env, &long);
    follower.wait_for_bytes(1);
    let mut ids = Vec::new();
    for turn in 0..RESTARTS {
        let mut client = env.client("user-a").await;
        let spec = oracle_spec(&env, &["lines", "20", "2"]);
        let request = StartJobRequest {
            spec: Some(spec),
            request_id: format!("turn-{turn}"),
            ..Default::default()
        };
        ids.push(client.start_job(request).await.unwrap().into_inner().job.unwrap().id);
        if turn % 2 == 0 {
            env.kill_broker()
        } else {
            env.stop_broker()
        }
        env.start_broker();
    }
    gate.open();
    let mut client = env.client("user-a").await;
    for id in &ids {
        let output = api::output(&mut client, id).await;
        oracle::assert_whole(&output.stdout, &output.stderr, 20);
        assert_eq!(output.job.exit_code, Some(7));
    }
    assert_eq!(fs::read_dir(env.shared()).unwrap().count(), ids.len(), "each ran once");
    let ended = follower.finish();
    ended.expect(0);
    let stored = api::output(&mut client, &long).await;
    assert!(ended.stdout == stored.stdout && ended.stderr == stored.stderr);
    assert!(oracle::verify('o', &stored.stdout).unwrap() > RESTARTS);
    assert!(oracle::verify('e', &stored.stderr).unwrap() > RESTARTS);
    let info = client.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
    assert!(info.epoch > RESTARTS, "{info:?}");
    assert_eq!(info.epoch, env.starts());
    env.assert_clean();
}

/// FAULTS 4. Three seconds by default, of which only the order of events matters: the job writes on
/// while nobody listens. `JOB_TESTS_STOPPED_SECONDS=60` is past every keepalive: clients reconnect.
#[test]
fn jobs_write_on_while_the_broker_is_stopped_and_clients_resume() {
    let env = Env::start();
    let seconds = std::env::var("JOB_TESTS_STOPPED_SECONDS").map_or(3, |s| s.parse().unwrap());
    let gate = env.gate();
    let text = format!("echo before; {}; {} lines 5000", gate.wait(), env.oracle());
    // Quiet: standard error is the job's alone.
    let running = env.spawn_jobctl("user-a", &["run", "-q", "--", "sh", "-c", &text]);
    running.wait_for_stdout("before\n");
    let id = env.jobctl("user-a", &["ps", "-q"]).id();
    env.broker().signal(Signal::SIGSTOP);
    gate.open();
    wait_for_end_of(&env, &id);
    thread::sleep(Duration::from_secs(seconds)); // the fault itself, not a synchronisation
    env.broker().signal(Signal::SIGCONT);
    let ran = running.finish();
    ran.expect(0);
    oracle::assert_whole(ran.stdout.strip_prefix(b"before\n").unwrap(), &ran.stderr, 5000);
    env.assert_clean();
}

/// FAULTS 5
#[test]
fn a_job_that_ends_while_the_broker_is_down_keeps_its_exit_status() {
    let mut env = Env::start();
    let gate = env.gate();
    let text = format!("echo up; {}; echo done; exit 7", gate.wait());
    let running = env.spawn_jobctl("user-a", &["run", "--name", "x", "--", "sh", "-c", &text]);
    running.wait_for_stdout("up\n");
    let id = env.jobctl("user-a", &["ps", "-q"]).id();
    env.kill_broker();
    gate.open();
    wait_for_end_of(&env, &id);
    env.start_broker();
    assert_eq!(env.jobctl("user-a", &["wait", "--until", "end", &id]).code(), 7);
    let job = env.jobctl("user-a", &["status", &id, "-o", "json"]).json();
    assert_eq!((&job["exit_code"], &job["cause"]), (&7.into(), &"exited".into()), "{job}");
    assert_eq!((&job["state"], &job["stdout_bytes"]), (&"finished".into(), &8.into()), "{job}");
    let ran = running.finish();
    assert_eq!((ran.code(), ran.out()), (7, "up\ndone\n".into()), "{}", ran.err());
    env.assert_clean();
}

/// FAULTS 6
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_gibibyte_written_while_the_broker_is_down_is_intact() {
    let mut env = Env::start();
    let bytes: u64 = scaled(1024, 64) << 20;
    let gate = env.gate();
    let mut client = env.client("user-a").await;
    let text = format!("{}; exec {} random {bytes} 9", gate.wait(), env.oracle());
    let id = api::start(&mut client, api::script(&text)).await.id;
    env.kill_broker();
    gate.open();
    wait_for_end_of(&env, &id);
    env.start_broker();
    let mut client = env.client("user-a").await;
    let job = api::ended(&mut client, &id).await;
    assert_eq!((job.exit_code, job.stdout_bytes, job.dropped_bytes), (Some(0), bytes, 0));
    let output = api::output(&mut client, &id).await;
    assert_eq!(oracle::sha256(output.stdout.as_slice()), oracle::random_sha256(bytes, 9));
}

/// FAULTS 6
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_past_the_declared_cap_is_counted_while_the_broker_is_down() {
    let mut env = Env::start();
    let gate = env.gate();
    let mut client = env.client("user-a").await;
    let text = format!("{}; exec {} random 5000000 9", gate.wait(), env.oracle());
    let mut spec = api::script(&text);
    spec.output_limit_bytes = 1_000_000;
    let id = api::start(&mut client, spec).await.id;
    env.kill_broker();
    gate.open();
    wait_for_end_of(&env, &id);
    env.start_broker();
    let job = api::ended(&mut env.client("user-a").await, &id).await;
    assert_eq!((job.exit_code, job.stdout_bytes), (Some(0), 1_000_000));
    assert_eq!(job.dropped_bytes, 4_000_000);
}

/// FAULTS 7
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_deadline_holds_while_the_broker_is_down() {
    let mut env = Env::start();
    let mut spec = api::script("trap '' TERM; echo up; while :; do sleep 0.05; done");
    spec.stop_timeout = Some(api::duration(Duration::from_millis(500)));
    // For how long it lasts beyond its deadline.
    let overrun = async || {
        let mut client = env.client("user-a").await;
        let id = api::start(&mut client, spec.clone()).await.id;
        until("it is up", || env.stdout_log(&id).contains("up").then_some(()));
        let limit = api::end_in(&mut client, &id, Duration::from_secs(1)).await;
        env.kill_broker();
        wait_for_end_of(&env, &id);
        env.start_broker();
        let job = api::ended(&mut env.client("user-a").await, &id).await;
        assert_eq!((job.cause(), job.signal), (Cause::TimedOut, Some(9)));
        assert_eq!(env.jobctl("user-a", &["wait", &id]).code(), 124);
        let overrun = api::lasted(&job) - limit.as_secs_f64();
        assert!(overrun >= 0.49, "its grace was {overrun} s");
        overrun
    };
    let overrun = trials(overrun, |overrun| *overrun < 3.0).await;
    assert!(overrun < 3.0, "{overrun} s");
    env.assert_clean();
}

/// A SIGKILL from nowhere is the broker's own where it had to carry a stop out itself, and no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_exit_that_was_told_stands_though_somebody_stops_what_is_left_and_the_broker_restarts() {
    let mut env = Env::builder().config("leftover_grace_seconds = 3600.0").start();
    let mut client = env.client("user-a").await;
    let text = "(trap '' TERM; echo up; exec sleep 1000) & kill -9 $$";
    let id = api::start(&mut client, api::script(text)).await.id;
    until("what is left of it is up", || env.stdout_log(&id).contains("up").then_some(()));
    let told = |job: &Job| (job.cause(), job.source(), job.signal, job.ended_by.clone());
    let first = told(&api::exited(&mut client, &id).await);
    assert_eq!(first, (Cause::Signaled, Source::System, Some(9), String::new()));

    api::stop(&mut client, &id, Duration::from_secs(600)).await;
    env.restart_broker();
    let mut client = env.client("user-a").await;
    let job = api::exited(&mut client, &id).await;
    assert_eq!((told(&job), job.state()), (first.clone(), State::Stopping));
    api::stop(&mut client, &id, Duration::ZERO).await;
    assert_eq!(told(&api::ended(&mut client, &id).await), first);
    env.restart_broker();
    assert_eq!(told(&api::job(&mut env.client("user-a").await, &id).await), first);
    env.assert_clean();
}

/// FAULTS 13
#[test]
fn a_second_broker_on_the_same_state_refuses_to_start_and_names_the_first() {
    let env = Env::start();
    let second = env.second_broker();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("process {}", env.broker().pid())), "{said}");
    assert_eq!(env.jobctl("user-a", &["run", "--", "echo", "fine"]).out(), "fine\n");
}

/// FAULTS 14
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_same_start_sent_again_is_one_job() {
    let mut env = Env::start();
    let spec = oracle_spec(&env, &["lines", "50", "2"]);
    let request =
        StartJobRequest { spec: Some(spec), request_id: "deploy-42".into(), ..Default::default() };
    // Together, as from a client that lost patience.
    let client = env.client("user-a").await;
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let (mut client, request) = (client.clone(), request.clone());
            tokio::spawn(async move { client.start_job(request).await })
        })
        .collect();
    let mut ids = Vec::new();
    for call in calls {
        ids.push(call.await.unwrap().unwrap().into_inner().job.unwrap().id);
    }
    // While it runs, and after its end, by a broker that has only the disk to know it from.
    env.restart_broker();
    let mut client = env.client("user-a").await;
    ids.push(client.start_job(request.clone()).await.unwrap().into_inner().job.unwrap().id);
    api::ended(&mut client, &ids[0]).await;
    env.restart_broker();
    let mut client = env.client("user-a").await;
    let last = client.start_job(request.clone()).await.unwrap().into_inner().job.unwrap();
    assert_eq!((last.state(), last.exit_code), (State::Finished, Some(7)));
    ids.push(last.id);
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let all = client.list_jobs(ListJobsRequest::default()).await.unwrap().into_inner().jobs;
    assert_eq!((all.len(), fs::read_dir(env.shared()).unwrap().count()), (1, 1));
    // Somebody else's request of the same name is another one.
    let mut other = env.client("user-b").await;
    let theirs = other.start_job(request).await.unwrap().into_inner().job.unwrap();
    assert_ne!(theirs.id, ids[0]);
}

/// FAULTS 14: the reply is lost with the broker that would have given it.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_start_whose_broker_dies_on_the_way_runs_exactly_once_when_it_is_repeated() {
    let mut env = Env::start();
    let turns = scaled(20, 5);
    for turn in 0..turns {
        let spec = oracle_spec(&env, &["lines", "3"]);
        let request = StartJobRequest {
            spec: Some(spec),
            request_id: format!("lost-{turn}"),
            ..Default::default()
        };
        let mut client = env.client("user-a").await;
        let sent = {
            let request = request.clone();
            tokio::spawn(async move { client.start_job(request).await })
        };
        // From before the request has left to after the answer, over the turns.
        tokio::time::sleep(Duration::from_micros(300 * turn)).await;
        env.kill_broker();
        let _ = sent.await; // an answer or none, both are possible
        env.start_broker();
        let mut client = env.client("user-a").await;
        let again = client.start_job(request.clone()).await.unwrap().into_inner().job.unwrap();
        let job = api::ended(&mut client, &again.id).await;
        assert_eq!(job.exit_code, Some(7), "{job:?}");
        let listed = client.list_jobs(ListJobsRequest::default()).await.unwrap().into_inner().jobs;
        for job in listed.iter().filter(|job| job.request_id == request.request_id) {
            let ran = env.shared().join(&job.id).exists();
            // A broker that died before GO leaves a job that says that it never ran.
            let cause = if ran { Cause::Exited } else { Cause::StartFailed };
            assert_eq!((job.cause(), ran), (cause, job.id == again.id), "{job:?}");
        }
    }
    assert_eq!(fs::read_dir(env.shared()).unwrap().count() as u64, turns, "each ran once");
    env.assert_clean();
}

#[test]
fn a_broker_that_is_told_to_end_leaves_its_jobs_running() {
    let mut env = Env::start();
    let gate = env.gate();
    let text = format!("echo before; {}; echo after", gate.wait());
    let running = env.spawn_jobctl("user-a", &["run", "--", "sh", "-c", &text]);
    running.wait_for_stdout("before");
    env.stop_broker();
    gate.open();
    env.start_broker();
    let ran = running.finish();
    assert_eq!((ran.code(), ran.out()), (0, "before\nafter\n".into()), "{}", ran.err());
}

/// Nobody reaches the shim of a job that ended while no broker was there: nobody waits for it either.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_drain_ends_what_runs_and_takes_in_what_has_ended_before() {
    let mut env = Env::start();
    let mut client = env.client("user-a").await;
    let gate = env.gate();
    let ends = api::start(&mut client, api::script(&format!("{}; exit 3", gate.wait()))).await.id;
    let runs = api::start(&mut client, api::script("sleep 1000")).await.id;
    env.kill_broker();
    gate.open();
    wait_for_end_of(&env, &ends);
    let drained = env.drain(Duration::from_secs(10));
    assert!(drained.status.success(), "{drained:?}");
    env.assert_clean();
    env.start_broker();
    let mut client = env.client("user-a").await;
    let job = api::job(&mut client, &ends).await;
    assert_eq!((job.state(), job.exit_code), (State::Finished, Some(3)), "{job:?}");
    let job = api::job(&mut client, &runs).await;
    assert_eq!((job.cause(), job.ended_by.as_str()), (Cause::Stopped, "job-broker drain"));
}
