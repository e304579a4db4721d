//! Limits that change while the job runs.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::time::{Duration, Instant};

use job_api::v1::job::State;
use job_api::v1::{Cause, IoMax, Job, Limits, UpdateJobRequest};
use job_tests::host::{self, Need};
use job_tests::measure;
use job_tests::refusal::{assert_precondition, violation};
use job_tests::{Env, api, trials, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::Code;

const BURN: &str = "while :; do :; done";
const MIB: u64 = 1 << 20;

fn seconds(seconds: f64) -> Option<prost_types::Duration> {
    Some(api::duration(Duration::from_secs_f64(seconds)))
}

fn of(id: &str) -> UpdateJobRequest {
    UpdateJobRequest { id: id.into(), ..Default::default() }
}

fn memory(bytes: u64) -> Option<Limits> {
    Some(Limits { memory_max_bytes: Some(bytes), ..Default::default() })
}

/// What changed, as the job's record has it: name, from, to.
fn changes(job: &Job) -> Vec<[&str; 3]> {
    job.changes.iter().map(|c| [c.name.as_str(), c.from.as_str(), c.to.as_str()]).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_update_changes_the_rate_of_a_job_that_burns_and_outlives_the_broker() {
    if !host::has(&[Need::Cpu]) {
        return;
    }
    let mut env = Env::start();
    let _alone = measure::alone();
    let id = env.jobctl("user-a", &["start", "--cpus", "0.2", "--", "sh", "-c", BURN]).id();
    let mut client = env.client("user-a").await;
    let window = Duration::from_millis(2500);
    measure::assert_cpus((&mut client, &env), &id, window, 0.2).await;
    env.jobctl("user-a", &["update", &id, "--cpus", "0.6"]).expect(0);
    measure::assert_cpus((&mut client, &env), &id, window, 0.6).await;

    env.restart_broker();
    let mut client = env.client("user-a").await;
    measure::assert_cpus((&mut client, &env), &id, window, 0.6).await;
    let job = api::job(&mut client, &id).await;
    assert_eq!(changes(&job), [["cpu.max", "20000 100000", "60000 100000"]]);
    assert_eq!(job.changes[0].by, "user-a");
    let limit = api::limit(&job, "cpu.max");
    assert_eq!((limit.applied(), limit.effective()), ("60000 100000", "60000 100000"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn more_memory_lets_a_job_allocate_what_killed_its_twin() {
    if !host::has(&[Need::Memory]) {
        return;
    }
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let gates = [env.gate(), env.gate()];
    let mut twins = Vec::new();
    for gate in &gates {
        let text = format!("{}; exec {} fill 64", gate.wait(), env.load());
        let limits = Limits { memory_max_bytes: Some(32 * MIB), ..Default::default() };
        twins.push(api::start(&mut client, api::limited(&text, limits)).await.id);
    }
    env.jobctl("user-a", &["update", &twins[1], "-m", "128M"]).expect(0);
    gates.iter().for_each(job_tests::Gate::open);
    assert_eq!(api::ended(&mut client, &twins[0]).await.cause(), Cause::OutOfMemory);
    let output = api::output(&mut client, &twins[1]).await;
    assert_eq!((output.stdout.as_slice(), output.job.exit_code), (&b"filled\n"[..], Some(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn memory_below_what_is_in_use_is_refused_and_with_force_it_kills() {
    if !host::has(&[Need::Memory]) {
        return;
    }
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let limits = Limits { memory_max_bytes: Some(128 * MIB), ..Default::default() };
    let text = format!("exec {} hold 64", env.load());
    let id = api::start(&mut client, api::limited(&text, limits)).await.id;
    until("it is filled", || env.stdout_log(&id).contains("filled").then_some(()));

    let lower = UpdateJobRequest { limits: memory(32 * MIB), ..of(&id) };
    let refused = api::update(&mut client, lower.clone()).await.unwrap_err();
    assert_precondition(&refused, &["memory", "force"]);
    let job = api::job(&mut client, &id).await;
    assert_eq!((job.state(), changes(&job).len()), (State::Running, 0));
    assert_eq!(api::limit(&job, "memory.max").applied(), (128 * MIB).to_string());

    let above_use = UpdateJobRequest { limits: memory(96 * MIB), ..of(&id) };
    let job = api::update(&mut client, above_use).await.unwrap();
    assert_eq!(api::limit(&job, "memory.max").applied(), (96 * MIB).to_string());

    let forced = UpdateJobRequest { force: true, ..lower };
    api::update(&mut client, forced).await.unwrap();
    let job = api::ended(&mut client, &id).await;
    assert_eq!((job.cause(), job.signal), (Cause::OutOfMemory, Some(9)), "{job:?}");
    assert_eq!(changes(&job).len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_deadline_that_is_put_off_is_outlived() {
    let env = Env::start();
    let gate = env.gate();
    let text = format!("{}; echo outlived", gate.wait());
    let put_off = |seconds: u64| {
        let (began, time) = (Instant::now(), format!("{seconds}s"));
        let id = env.jobctl("user-a", &["start", "--time", &time, "--", "sh", "-c", &text]).id();
        let updated = env.jobctl("user-a", &["update", &id, "--time", "+10m"]);
        // On a slow host it may come too late.
        if updated.code() != 0 && began.elapsed() >= Duration::from_secs(seconds) {
            return None;
        }
        updated.expect(0);
        let is_running = env.jobctl("user-a", &["ps", "-q"]).out().contains(&id);
        (is_running || began.elapsed() < Duration::from_secs(seconds))
            .then(|| (id, seconds, Instant::now()))
    };
    let (id, seconds, since) = [2, 4, 8, 16].into_iter().find_map(put_off).unwrap();
    let mut client = env.client("user-a").await;
    let job = api::job(&mut client, &id).await;
    let [old, new] = [seconds, seconds + 600].map(|seconds| format!("{seconds}s"));
    assert_eq!(api::limit(&job, "time_limit").applied(), new);
    assert_eq!(changes(&job), [["time_limit", &old, &new]]);
    let over = Duration::from_secs(seconds) + Duration::from_millis(300);
    tokio::time::sleep(over.saturating_sub(since.elapsed())).await; // the old deadline
    gate.open();
    let output = api::output(&mut client, &id).await;
    assert_eq!((output.stdout.as_slice(), output.job.exit_code), (&b"outlived\n"[..], Some(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_deadline_that_is_brought_forward_ends_the_job() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let mut spec = api::spec(&["sleep", "1000"]);
    spec.time_limit = seconds(3600.0);
    let id = api::start(&mut client, spec.clone()).await.id;
    let earlier = UpdateJobRequest { time_limit: seconds(1.0), ..of(&id) };
    api::update(&mut client, earlier).await.unwrap();
    let job = api::ended(&mut client, &id).await;
    assert_eq!((job.cause(), job.ended_by_limit.as_str()), (Cause::TimedOut, "time_limit"));
    assert!((0.99..30.0).contains(&api::lasted(&job)), "{job:?}");

    // One that is over already is over now.
    let id = api::start(&mut client, spec).await.id;
    let over = UpdateJobRequest { time_limit: seconds(0.001), ..of(&id) };
    api::update(&mut client, over).await.unwrap();
    assert_eq!(api::ended(&mut client, &id).await.cause(), Cause::TimedOut);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_job_without_a_deadline_can_be_given_one() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let id = api::start(&mut client, api::spec(&["sleep", "1000"])).await.id;
    let given = UpdateJobRequest { time_limit: seconds(0.5), ..of(&id) };
    api::update(&mut client, given).await.unwrap();
    assert_eq!(api::ended(&mut client, &id).await.cause(), Cause::TimedOut);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_was_answered_holds_when_the_broker_is_killed_straight_after() {
    let mut env = Env::start();
    let mut client = env.client("user-a").await;
    let mut spec = api::spec(&["sleep", "1000"]);
    spec.time_limit = seconds(3600.0);
    let id = api::start(&mut client, spec).await.id;
    let earlier = UpdateJobRequest { time_limit: seconds(2.0), ..of(&id) };
    api::update(&mut client, earlier).await.unwrap();
    env.kill_broker();
    // It holds without a broker ...
    until("it has ended", || env.cgroup().shim(&id).is_none().then_some(()));
    env.start_broker();
    // ... and stands in the record.
    let job = api::ended(&mut env.client("user-a").await, &id).await;
    assert_eq!((job.cause(), job.ended_by_limit.as_str()), (Cause::TimedOut, "time_limit"));
    assert_eq!(changes(&job), [["time_limit", "3600s", "2s"]]);
    assert_eq!(job.changes[0].by, "user-a");
    assert!(job.changes[0].time.is_some());
    let job = api::job(&mut env.client("user-a").await, &id).await;
    assert_eq!(api::limit(&job, "time_limit").requested, "2s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_updated_deadline_is_not_forgotten_by_the_next_broker() {
    let mut env = Env::start();
    let mut client = env.client("user-a").await;
    let mut spec = api::spec(&["sleep", "1000"]);
    spec.time_limit = seconds(3600.0);
    let id = api::start(&mut client, spec).await.id;
    let first = UpdateJobRequest { time_limit_extension: seconds(60.0), ..of(&id) };
    api::update(&mut client, first).await.unwrap();
    env.restart_broker();
    let mut client = env.client("user-a").await;
    // The extension is of the deadline that it has now, and another limit leaves it alone.
    let second = UpdateJobRequest { time_limit_extension: seconds(60.0), ..of(&id) };
    api::update(&mut client, second).await.unwrap();
    let third = UpdateJobRequest { cpu_time_limit: seconds(100.0), ..of(&id) };
    let job = api::update(&mut client, third).await.unwrap();
    assert_eq!(api::limit(&job, "time_limit").applied(), "3720s");
    assert_eq!(api::limit(&job, "cpu_time_limit").applied(), "100s");
    let times: Vec<_> = changes(&job).into_iter().filter(|c| c[0] == "time_limit").collect();
    assert_eq!(times, [["time_limit", "3600s", "3660s"], ["time_limit", "3660s", "3720s"]]);
}

/// What is asked of a broker that has not reached its shims yet waits for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_update_that_comes_before_the_shim_is_reached_again_is_made() {
    let mut env = Env::start();
    let mut client = env.client("user-a").await;
    let id = api::start(&mut client, api::spec(&["sleep", "1000"])).await.id;
    let shim = Pid::from_raw(env.cgroup().shim(&id).unwrap());
    let update_early = async || {
        kill(shim, Signal::SIGSTOP).unwrap();
        env.restart_broker();
        let mut client = env.client("user-a").await;
        let request = UpdateJobRequest { time_limit: seconds(60.0), ..of(&id) };
        let mut update = tokio::spawn(async move { api::update(&mut client, request).await });
        let early = tokio::time::timeout(Duration::from_millis(100), &mut update).await;
        kill(shim, Signal::SIGCONT).unwrap();
        match early {
            Ok(Ok(Ok(_))) => panic!("nobody has taken the limit yet"),
            Ok(late) => late.unwrap(),
            Err(_) => update.await.unwrap(),
        }
    };
    // After two seconds a shim counts as silent, and the broker does not wait for it any more.
    let applied = |job: &Job| api::limit(job, "time_limit").applied.clone();
    let is_made =
        |updated: &Result<Job, _>| updated.as_ref().is_ok_and(|job| applied(job).is_some());
    let updated = trials(update_early, is_made).await.unwrap();
    assert_eq!(applied(&updated).as_deref(), Some("60s"));
}

/// A shim whose job ends by the very change may have left before its answer is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_update_whose_job_ends_before_its_shim_has_answered_is_made() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let kill_meanwhile = async || {
        let id = api::start(&mut client, api::spec(&["sleep", "1000"])).await.id;
        let shim = Pid::from_raw(env.cgroup().shim(&id).unwrap());
        kill(shim, Signal::SIGSTOP).unwrap();
        let began = Instant::now();
        let (mut own, request) =
            (client.clone(), UpdateJobRequest { time_limit: seconds(60.0), ..of(&id) });
        let update = tokio::spawn(async move { api::update(&mut own, request).await });
        // It is seen once the kernel has been told, and then the shim is.
        api::becomes(&mut client, &id, |job| !job.changes.is_empty()).await;
        kill(shim, Signal::SIGKILL).unwrap();
        let updated = update.await.unwrap().unwrap();
        assert_eq!(changes(&updated), [["time_limit", "", "60s"]]);
        assert_eq!(changes(&api::ended(&mut client, &id).await), [["time_limit", "", "60s"]]);
        began.elapsed()
    };
    // As long as that the broker waits for a shim that may yet answer.
    let took = trials(kill_meanwhile, |took| *took < Duration::from_secs(2)).await;
    assert!(took < Duration::from_secs(2), "it is answered when the job has ended: {took:?}");
}

/// What is on record is seen to, if not at once; and so the caller is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stopped_shim_takes_an_update_when_it_goes_on() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let id = api::start(&mut client, api::spec(&["sleep", "1000"])).await.id;
    let shim = Pid::from_raw(env.cgroup().shim(&id).unwrap());
    kill(shim, Signal::SIGSTOP).unwrap();
    let told = env.jobctl("user-a", &["update", &id, "--time", "60s"]).out();
    assert!(told.starts_with("time_limit: not set -> 1m (recorded; "), "{told}");
    let job = api::job(&mut client, &id).await;
    assert_eq!(changes(&job), [["time_limit", "", "60s"]]);
    let limit = api::limit(&job, "time_limit");
    assert_eq!((limit.requested.as_str(), limit.applied.as_ref()), ("60s", None));
    kill(shim, Signal::SIGCONT).unwrap();
    let is_applied = |job: &Job| api::limit(job, "time_limit").applied.is_some();
    let job = api::becomes(&mut client, &id, is_applied).await;
    assert_eq!(api::limit(&job, "time_limit").applied(), "60s");
    let spec = || fs::read_to_string(env.job_dir(&id).join("spec.json")).unwrap();
    until("that is on record", || spec().contains(r#""is_changing":false"#).then_some(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_higher_output_limit_keeps_what_comes_from_then_on() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let gate = env.gate();
    let text = format!("printf 0123456789; {}; printf abcdefghij", gate.wait());
    let mut spec = api::script(&text);
    spec.output_limit_bytes = 5;
    let id = api::start(&mut client, spec).await.id;
    // One write, one read: what is not in the log by then has been dropped.
    until("it is read", || (env.stdout_log(&id).len() == 5).then_some(()));
    let more = UpdateJobRequest { output_limit_bytes: 100, ..of(&id) };
    let job = api::update(&mut client, more).await.unwrap();
    assert_eq!(api::limit(&job, "output_limit").applied(), "100");
    gate.open();
    let output = api::output(&mut client, &id).await;
    assert_eq!(output.stdout, b"01234abcdefghij");
    assert_eq!(output.job.dropped_bytes, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_job_has_all_of_an_update_or_nothing() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let mut spec = api::spec(&["sleep", "1000"]);
    spec.time_limit = seconds(3600.0);
    let id = api::start(&mut client, spec).await.id;
    let before = api::job(&mut client, &id).await;
    // There are no limits on devices of /proc, whatever the host has.
    let io_max = IoMax { path: "/proc".into(), wbps: Some(1 << 20), ..Default::default() };
    let limits = Some(Limits { io_max: vec![io_max], ..Default::default() });
    let request = UpdateJobRequest { limits, time_limit: seconds(60.0), ..of(&id) };
    let refused = api::update(&mut client, request).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    let after = api::job(&mut client, &id).await;
    assert_eq!((after.limits, after.changes), (before.limits, before.changes));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn ended_jobs_jobs_of_others_and_values_out_of_range_are_refused() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let is_running = api::start(&mut client, api::spec(&["sleep", "1000"])).await.id;
    for request in [
        UpdateJobRequest { time_limit: seconds(0.0), ..of(&is_running) },
        UpdateJobRequest { time_limit_extension: seconds(0.0), ..of(&is_running) },
        UpdateJobRequest { cpu_time_limit: seconds(0.0), ..of(&is_running) },
        UpdateJobRequest { limits: memory(4096), ..of(&is_running) },
        UpdateJobRequest {
            time_limit: seconds(9.0),
            time_limit_extension: seconds(1.0),
            ..of(&is_running)
        },
        UpdateJobRequest { time_limit: seconds(1.0), ..of("x") },
    ] {
        let (field, said) = violation(&api::update(&mut client, request).await.unwrap_err());
        assert!(field == "id" || field.contains("time_limit") || field.contains("memory_max"));
        assert!(!said.is_empty());
    }
    let mut other = env.client("user-b").await;
    let theirs = UpdateJobRequest { time_limit: seconds(1.0), ..of(&is_running) };
    let refused = api::update(&mut other, theirs).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
    assert_eq!(api::pause(&mut other, &is_running).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(api::resume(&mut other, &is_running).await.unwrap_err().code(), Code::NotFound);

    let ended = api::start(&mut client, api::spec(&["true"])).await.id;
    api::ended(&mut client, &ended).await;
    let late = UpdateJobRequest { time_limit: seconds(60.0), ..of(&ended) };
    assert_precondition(&api::update(&mut client, late).await.unwrap_err(), &["ended"]);
}
