//! Why a job ended: told apart, with a broker and without, and the first cause wins.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::time::Duration;

use job_api::v1::job::State;
use job_api::v1::{Cause, Job, JobSpec, Limits, OutputPolicy, Source};
use job_tests::host::{self, Need};
use job_tests::measure::{self, assert_near, is_near};
use job_tests::{Env, api, oracle, trials, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const STUBBORN: &str = "trap '' TERM; echo up; while :; do sleep 0.05; done";

fn time(millis: u64) -> Option<prost_types::Duration> {
    Some(api::duration(Duration::from_millis(millis)))
}

fn is_up(env: &Env, id: &str) {
    until("it is up", || env.stdout_log(id).contains("up").then_some(()));
}

/// A job that waits at a gate until the broker is there or is not, and then does `text`.
async fn end_of(env: &mut Env, broker: bool, text: &str, spec: JobSpec) -> Job {
    let gate = env.gate();
    let mut client = env.client("user-a").await;
    let text = format!("echo up; {}; {text}", gate.wait());
    let spec = JobSpec { argv: vec!["sh".into(), "-c".into(), text], ..spec };
    let id = api::start(&mut client, spec).await.id;
    is_up(env, &id);
    if broker {
        gate.open();
        api::ended(&mut client, &id).await;
        return api::job(&mut client, &id).await;
    }
    env.kill_broker();
    gate.open();
    end_alone(env, &id).await
}

/// A job that meets its deadline, while the broker is there or is not.
async fn end_in_time(env: &mut Env, broker: bool) -> Job {
    let mut client = env.client("user-a").await;
    let id = api::start(&mut client, api::script("echo up; exec sleep 1000")).await.id;
    is_up(env, &id);
    api::end_in(&mut client, &id, Duration::from_millis(700)).await;
    if broker {
        return api::ended(&mut client, &id).await;
    }
    env.kill_broker();
    end_alone(env, &id).await
}

/// Waits, without a broker, until nothing is left of a job, and asks the next broker.
async fn end_alone(env: &mut Env, id: &str) -> Job {
    until("it has ended", || {
        (env.cgroup().work(id).is_empty() && env.cgroup().shim(id).is_none()).then_some(())
    });
    env.start_broker();
    let mut client = env.client("user-a").await;
    api::ended(&mut client, id).await;
    api::job(&mut client, id).await
}

fn told(job: &Job) -> (Cause, Source, &str, Option<i32>, Option<i32>) {
    (job.cause(), job.source(), &job.ended_by_limit, job.exit_code, job.signal)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn exits_signals_and_output_are_told_with_and_without_a_broker() {
    let mut env = Env::start();
    let (none, system) = (Source::Unspecified, Source::System);
    for broker in [true, false] {
        let job = end_of(&mut env, broker, "exit 7", JobSpec::default()).await;
        assert_eq!(told(&job), (Cause::Exited, none, "", Some(7), None));
        let job = end_of(&mut env, broker, "kill -USR1 $$", JobSpec::default()).await;
        assert_eq!(told(&job), (Cause::Signaled, system, "", None, Some(10)));
        // SIGKILL alone is no lack of memory.
        let job = end_of(&mut env, broker, "kill -KILL $$", JobSpec::default()).await;
        assert_eq!(told(&job), (Cause::Signaled, system, "", None, Some(9)));
        let spec = JobSpec {
            output_limit_bytes: 1000,
            output_policy: OutputPolicy::Kill.into(),
            ..JobSpec::default()
        };
        let job = end_of(&mut env, broker, "exec yes", spec).await;
        assert_eq!(
            (job.cause(), job.ended_by_limit.as_str()),
            (Cause::OutputLimit, "output_limit")
        );
        let job = end_in_time(&mut env, broker).await;
        assert_eq!(told(&job), (Cause::TimedOut, Source::Timeout, "time_limit", None, Some(15)));
    }
    env.assert_clean();
}

/// FAULTS 25
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_lack_of_memory_is_told_when_the_broker_was_away_at_the_moment_of_death() {
    if !host::has(&[Need::Memory]) {
        return;
    }
    let mut env = Env::start();
    let limits = Limits { memory_max_bytes: Some(64 << 20), ..Default::default() };
    let spec = JobSpec { limits: Some(limits), ..JobSpec::default() };
    let text = format!("{} lines 500; exec {} fill 256", env.oracle(), env.load());
    let job = end_of(&mut env, false, &text, spec).await;
    let expected = (Cause::OutOfMemory, Source::Oom, "memory.max", None, Some(9));
    assert_eq!((told(&job), job.state()), (expected, State::Finished));
    assert!(!job.incomplete);
    let usage = job.usage.clone().unwrap();
    assert!(usage.memory_oom_kills >= Some(1), "{usage:?}");
    // Linux 5.15 has no memory.peak.
    assert!(usage.memory_peak_bytes.is_none_or(|peak| peak > 60 << 20), "{usage:?}");
    assert_eq!(env.jobctl("user-a", &["wait", &job.id]).code(), 137);
    let output = api::output(&mut env.client("user-a").await, &job.id).await;
    oracle::assert_whole(output.stdout.strip_prefix(b"up\n").unwrap(), &output.stderr, 500);
    env.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_job_that_is_killed_within_its_memory_did_not_lack_any() {
    if !host::has(&[Need::Memory]) {
        return;
    }
    let env = Env::start();
    let mut client = env.client("user-a").await;
    // The limit is met, and the page cache given back for it.
    let limits = Limits { memory_max_bytes: Some(16 << 20), ..Default::default() };
    let file = env.shared().join("cache").display().to_string();
    let text = format!("head -c 40000000 /dev/zero >{file}; kill -KILL $$");
    let id = api::start(&mut client, api::limited(&text, limits)).await.id;
    let job = api::ended(&mut client, &id).await;
    assert_eq!((job.cause(), job.signal), (Cause::Signaled, Some(9)), "{job:?}");
    let usage = api::usage(&mut client, &id).await;
    assert_eq!(usage.memory_oom_kills, Some(0));
    assert!(usage.memory_max_events > Some(0), "{usage:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_job_that_is_out_of_memory_while_it_is_being_stopped_was_stopped() {
    if !host::has(&[Need::Memory]) {
        return;
    }
    let mut env = Env::builder().admin("admin").start();
    for broker in [true, false] {
        let gate = env.gate();
        let fill = format!("{}; exec {} fill 256", gate.wait(), env.load());
        let text = format!("trap '{fill}' TERM; echo up; while :; do sleep 0.05; done");
        let limits = Limits { memory_max_bytes: Some(32 << 20), ..Default::default() };
        let mut client = env.client("user-a").await;
        let id = api::start(&mut client, api::limited(&text, limits)).await.id;
        is_up(&env, &id);
        let mut admin = env.client("admin").await;
        api::stop(&mut admin, &id, Duration::from_secs(60)).await;
        let job = if broker {
            gate.open();
            api::ended(&mut client, &id).await;
            api::job(&mut client, &id).await
        } else {
            env.kill_broker();
            gate.open();
            end_alone(&mut env, &id).await
        };
        assert_eq!(told(&job), (Cause::Stopped, Source::Admin, "", None, Some(9)));
        assert_eq!(job.ended_by, "admin");
        assert!(job.usage.unwrap().memory_oom_kills >= Some(1), "it was killed for it");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn of_a_deadline_and_a_stop_the_first_is_the_cause() {
    let mut env = Env::start();
    for broker in [true, false] {
        let mut client = env.client("user-a").await;
        let stubborn = JobSpec { stop_timeout: time(60_000), ..api::script(STUBBORN) };
        // The deadline first: the job is stopping when the stop comes and kills it.
        let id = api::start(&mut client, stubborn.clone()).await.id;
        is_up(&env, &id);
        api::end_in(&mut client, &id, Duration::from_millis(1)).await;
        api::becomes(&mut client, &id, |job| job.state() == State::Stopping).await;
        if !broker {
            env.restart_broker();
        }
        let mut client = env.client("user-a").await;
        api::stop(&mut client, &id, Duration::ZERO).await;
        let job = api::ended(&mut client, &id).await;
        assert_eq!(told(&job), (Cause::TimedOut, Source::Timeout, "time_limit", None, Some(9)));

        // The stop first: its grace is longer than the deadline is away.
        let job = api::start(&mut client, stubborn).await;
        is_up(&env, &job.id);
        api::stop(&mut client, &job.id, Duration::from_secs(1000)).await;
        let away = Duration::from_millis(500);
        api::end_in(&mut client, &job.id, away).await;
        if !broker {
            env.kill_broker();
        }
        tokio::time::sleep(2 * away).await; // the deadline
        kill(Pid::from_raw(i32::try_from(job.pid.unwrap()).unwrap()), Signal::SIGKILL).unwrap();
        let job = if broker {
            api::ended(&mut client, &job.id).await
        } else {
            end_alone(&mut env, &job.id).await
        };
        assert_eq!(told(&job), (Cause::Stopped, Source::User, "", None, Some(9)));
        assert_eq!(job.ended_by, "user-a");
    }
    env.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_signal_from_its_owner_is_no_stop() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let id = api::start(&mut client, api::spec(&["sleep", "1000"])).await.id;
    env.jobctl("user-a", &["kill", "-s", "KILL", &id]).expect(0);
    let job = api::ended(&mut client, &id).await;
    assert_eq!((job.cause(), job.signal), (Cause::Signaled, Some(9)));
    assert_eq!(job.ended_by_limit, "");
    // Nor is one from elsewhere on the host.
    let job = api::start(&mut client, api::spec(&["sleep", "1000"])).await;
    let pid = i32::try_from(job.pid.unwrap()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let job = api::ended(&mut client, &job.id).await;
    assert_eq!((job.cause(), job.signal), (Cause::Signaled, Some(9)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn two_processes_that_burn_end_together_at_the_limit_of_their_cpu_time() {
    let mut env = Env::start();
    let _alone = measure::alone();
    for broker in [true, false] {
        let burnt = async || {
            let spec = JobSpec { cpu_time_limit: time(1500), ..JobSpec::default() };
            let burn = "while :; do :; done";
            let job = end_of(&mut env, broker, &format!("{burn} & {burn}"), spec).await;
            assert_eq!(job.cause(), Cause::TimedOut, "{job:?}");
            assert_eq!(job.ended_by_limit, "cpu_time_limit");
            assert_eq!(job.source(), Source::Timeout);
            let used = job.usage.as_ref().unwrap().cpu_usage_usec.unwrap() as f64;
            assert!(used >= 1.2e6, "{used} us: it is ended too early");
            (job, [used])
        };
        // More than that it can have where the host holds up who looks after it.
        let (job, used) = trials(burnt, |(_, used)| is_near(used, 1.5e6, 0.2)).await;
        assert_near(&used, 1.5e6, 0.2);
        assert_eq!(env.jobctl("user-a", &["wait", &job.id]).code(), 124);
    }
    env.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_job_that_sleeps_uses_no_cpu_time_up() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    // Less than it lasts, and more than its start can cost, unless a virtual host stands still then:
    // that time may be booked as this job's.
    let spec = JobSpec { cpu_time_limit: time(1900), ..api::script("sleep 2; exit 4") };
    let job = async || {
        let id = api::start(&mut client, spec.clone()).await.id;
        api::ended(&mut client, &id).await
    };
    let job = trials(job, |job| job.cause() == Cause::Exited).await;
    assert_eq!(told(&job), (Cause::Exited, Source::Unspecified, "", Some(4), None));
}
