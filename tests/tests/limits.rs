//! Each limit by its effect: what a job gets, and not what stands in a file.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::time::{Duration, Instant};

use job_api::client::Client;
use job_api::v1::job::State;
use job_api::v1::{Cause, Job, Limits, Source};
use job_tests::host::{self, Need};
use job_tests::measure::{self, assert_near, is_near};
use job_tests::{Env, Gate, api, oracle, trials, until};

const BURN: &str = "while :; do :; done";
const MIB: u64 = 1 << 20;

fn cpu(quota_usec: u64) -> Limits {
    let period = Some(100_000);
    Limits {
        cpu_max_quota_usec: Some(quota_usec),
        cpu_max_period_usec: period,
        ..Default::default()
    }
}

fn memory(bytes: u64) -> Limits {
    Limits { memory_max_bytes: Some(bytes), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_job_with_a_fifth_of_a_processor_burns_a_fifth_of_a_processor() {
    if !host::has(&[Need::Cpu]) {
        return;
    }
    let env = Env::start();
    let _alone = measure::alone();
    let id = env.jobctl("user-a", &["start", "--cpus", "0.2", "--", "sh", "-c", BURN]).id();
    let mut client = env.client("user-a").await;
    let window = Duration::from_secs(5);
    measure::assert_cpus((&mut client, &env), &id, window, 0.2).await;
    // Periods in which the host holds the job up are the exception, in the end.
    let is_held_up = |job: &Job| {
        let usage = job.usage.as_ref().unwrap();
        let (periods, held_up) = (usage.cpu_nr_periods.unwrap(), usage.cpu_nr_throttled.unwrap());
        let is_long = usage.cpu_throttled_usec.unwrap() > 3_000_000;
        periods >= 45 && held_up * 10 >= periods * 8 && is_long
    };
    api::becomes(&mut client, &id, is_held_up).await;
}

/// How long the quota of a hundredth holds a job up for what it has had beyond it: until its next
/// tick the kernel lets it run on.
async fn debt(client: &mut Client, id: &str) -> Duration {
    let usage = api::usage(client, id).await;
    let due = usage.cpu_nr_periods.unwrap() * 1000;
    Duration::from_micros(100 * usage.cpu_usage_usec.unwrap().saturating_sub(due))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_job_with_a_hundredth_of_a_processor_is_stopped_at_once_and_meets_its_deadline() {
    if !host::has(&[Need::Cpu]) {
        return;
    }
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let _alone = measure::alone();
    let most = Duration::from_secs(2);
    let stopped = async || {
        let id = api::start(&mut client, api::limited(BURN, cpu(1000))).await.id;
        let window = Duration::from_secs(1);
        let is_slow = |rates: &[f64; 2]| rates.iter().all(|rate| *rate < 0.03);
        let rates =
            measure::windows(async || measure::cpus(&mut client, &env, &id, window).await, is_slow);
        let rates = rates.await;
        assert!(is_slow(&rates), "{rates:?}");
        let most_then = most + debt(&mut client, &id).await;
        let began = Instant::now();
        api::stop(&mut client, &id, Duration::ZERO).await;
        api::ended(&mut client, &id).await;
        (began.elapsed(), most_then)
    };
    let (took, most_then) = trials(stopped, |(took, most_then)| took < most_then).await;
    assert!(took < most_then, "{took:?}, not {most_then:?}");

    let mut spec = api::limited(BURN, cpu(1000));
    spec.time_limit = Some(api::duration(Duration::from_millis(500)));
    spec.stop_timeout = Some(api::duration(Duration::ZERO));
    let lasted = async || {
        let id = api::start(&mut client, spec.clone()).await.id;
        let job = api::ended(&mut client, &id).await;
        assert_eq!(job.cause(), Cause::TimedOut);
        // From the start of the program: execve(2) is its own work, and is held up as all of it.
        api::lasted(&job)
    };
    let is_in_time = |lasted: &f64| *lasted < most.as_secs_f64() + 0.5;
    let lasted = trials(lasted, is_in_time).await;
    assert!(is_in_time(&lasted), "{lasted} s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn two_busy_jobs_share_a_processor_by_their_weights() {
    if !host::has(&[Need::Cpu]) {
        return;
    }
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let _alone = measure::alone();
    let mut ids = Vec::new();
    for weight in [100, 400] {
        let limits = Limits { cpu_weight: Some(weight), ..Default::default() };
        // Where there are more processors, both want the same one.
        let text = "taskset -pc 0 $$ >/dev/null; echo up; while :; do :; done";
        ids.push(api::start(&mut client, api::limited(text, limits)).await.id);
    }
    for id in &ids {
        until("it burns", || env.stdout_log(id).contains("up").then_some(()));
    }
    let used = || [0, 1].map(|n| measure::cpu_usec(&env, &ids[n]) as f64);
    let ratio = async || {
        let before = used();
        tokio::time::sleep(Duration::from_secs(3)).await; // the window
        let after = used();
        let [light, heavy] = [0, 1].map(|n| after[n] - before[n]);
        [heavy / light]
    };
    let ratio = measure::windows(ratio, |ratio| is_near(ratio, 4.0, 0.2)).await;
    assert_near(&ratio, 4.0, 0.2);
}

/// FAULTS 25
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_memory_hog_is_killed_and_its_shim_and_its_neighbours_live() {
    if !host::has(&[Need::Memory]) {
        return;
    }
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let gate = env.gate();
    let neighbour = format!("{}; echo fine", gate.wait());
    let neighbour = api::start(&mut client, api::limited(&neighbour, memory(64 * MIB))).await.id;

    let hog = format!("{} lines 500; exec {} fill 256", env.oracle(), env.load());
    let ran = env.jobctl("user-a", &["run", "-q", "-m", "64M", "--", "sh", "-c", &hog]);
    ran.expect(137);
    oracle::assert_whole(&ran.stdout, &ran.stderr, 500);

    let id = env.jobctl("user-a", &["ps", "-a", "-q"]).out();
    let id = id.lines().find(|id| *id != neighbour).unwrap();
    let job = api::ended(&mut client, id).await;
    assert_eq!((job.state(), job.cause()), (State::Finished, Cause::OutOfMemory), "{job:?}");
    assert_eq!((job.signal, job.source(), job.incomplete), (Some(9), Source::Oom, false));
    assert_eq!(job.ended_by_limit, "memory.max");
    let usage = api::usage(&mut client, id).await;
    assert!(usage.memory_oom_kills >= Some(1), "{usage:?}");
    // Linux 5.15 has no memory.peak.
    let peak = usage.memory_peak_bytes;
    assert!(peak.is_none_or(|peak| (60 * MIB..=64 * MIB).contains(&peak)), "{usage:?}");

    gate.open();
    assert_eq!(api::output(&mut client, &neighbour).await.stdout, b"fine\n");
    env.assert_clean();
}

/// FAULTS 25
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_child_that_is_out_of_memory_takes_its_whole_job_with_it() {
    if !host::has(&[Need::Memory]) {
        return;
    }
    let env = Env::start();
    let mut client = env.client("user-a").await;
    // Without memory.oom.group the kernel would kill the largest process, and sh would go on.
    let text = format!("sleep 1000 & {} fill 256; echo survived; sleep 1000", env.load());
    let id = api::start(&mut client, api::limited(&text, memory(32 * MIB))).await.id;
    let job = api::ended(&mut client, &id).await;
    assert_eq!((job.cause(), job.signal), (Cause::OutOfMemory, Some(9)), "{job:?}");
    assert!(api::output(&mut client, &id).await.stdout.is_empty());
    env.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn past_memory_high_a_job_is_held_back_and_goes_on() {
    if !host::has(&[Need::Memory, Need::Disk]) {
        return;
    }
    let env = Env::start();
    let disk = host::disk();
    let mut client = env.client("user-a").await;
    // Page cache: it can be taken back, where there is no swap too.
    let file = disk.path().join("cache").display().to_string();
    let text = format!("dd if=/dev/zero of={file} bs=1M count=64 2>/dev/null && echo written");
    let limits = Limits { memory_high_bytes: Some(16 * MIB), ..Default::default() };
    let id = api::start(&mut client, api::limited(&text, limits)).await.id;
    let output = api::output(&mut client, &id).await;
    assert_eq!((output.stdout.as_slice(), output.job.exit_code), (&b"written\n"[..], Some(0)));
    let usage = api::usage(&mut client, &id).await;
    assert!(usage.memory_high_events > Some(0), "{usage:?}");
    assert!(usage.memory_peak_bytes.is_none_or(|peak| peak < 32 * MIB), "{usage:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn forks_beyond_the_limit_of_processes_fail_with_eagain() {
    if !host::has(&[Need::Pids]) {
        return;
    }
    let env = Env::start();
    let args = ["run", "--pids-limit", "10", "--", &env.load(), "spawn", "50"];
    let ran = env.jobctl("user-a", &args);
    // 10 with itself.
    assert_eq!((ran.code(), ran.out()), (0, "made 9 refused 41 errno 11\n".into()));
    let id = env.jobctl("user-a", &["ps", "-a", "-q"]).id();
    let usage = api::usage(&mut env.client("user-a").await, &id).await;
    assert_eq!(usage.pids_max_events, Some(41), "{usage:?}");
    // Linux 6.1 has pids.peak only where it was taken over.
    assert!(usage.pids_peak.is_none_or(|peak| peak == 10), "{usage:?}");
}

/// A job that waits at a gate of its own.
async fn waiting(env: &Env, client: &mut Client) -> (Gate, String) {
    let gate = env.gate();
    let text = format!("{}; echo on", gate.wait());
    let id = api::start(client, api::script(&text)).await.id;
    (gate, id)
}

/// How long others wait for an answer: a job that goes on, and a new one.
async fn served(env: &Env, client: &mut Client, (gate, waiting): (&Gate, &str)) -> Duration {
    let began = Instant::now();
    gate.open();
    assert_eq!(api::output(client, waiting).await.stdout, b"on\n");
    let ran = env.jobctl("user-a", &["run", "--", "echo", "fine"]);
    assert_eq!(ran.out(), "fine\n");
    began.elapsed()
}

/// FAULTS 26
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_fork_bomb_is_gone_within_five_seconds_of_its_stop_and_others_are_answered() {
    if !host::has(&[Need::Pids]) {
        return;
    }
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let (gate, id) = waiting(&env, &mut client).await;
    let calm = served(&env, &mut client, (&gate, &id)).await;
    let limits = Limits { pids_max: Some(100), ..Default::default() };
    let spec = api::limited("bomb() { bomb | bomb & }; bomb; sleep 1000", limits);
    let exploded = async || {
        let (gate, id) = waiting(&env, &mut client).await;
        let bomb = api::start(&mut client, spec.clone()).await.id;
        until("it has gone off", || (env.cgroup().work(&bomb).len() > 80).then_some(()));
        let answered = served(&env, &mut client, (&gate, &id)).await;

        let began = Instant::now();
        api::stop(&mut client, &bomb, Duration::ZERO).await;
        until("it is gone", || env.cgroup().work(&bomb).is_empty().then_some(()));
        let gone = began.elapsed();
        assert_eq!(api::ended(&mut client, &bomb).await.cause(), Cause::Stopped);
        (answered, gone)
    };
    let bounds = (10 * calm + Duration::from_secs(5), Duration::from_secs(5));
    let are_in_time = |took: &(Duration, Duration)| took.0 < bounds.0 && took.1 < bounds.1;
    let took = trials(exploded, are_in_time).await;
    assert!(are_in_time(&took), "{took:?}, not {bounds:?}");
    env.assert_clean();
}
