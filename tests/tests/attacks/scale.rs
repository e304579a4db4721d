//! Item 11, and descriptors of item 12: many jobs, a broker that is killed over them, and hosts that have
//! too little for the next one. The figures of ten thousand are `cargo xtask bench scale --jobs 10000`.

use std::fs;
use std::time::{Duration, Instant};

use job_api::v1::job::State;
use job_api::v1::{Cause, ListJobsRequest};
use job_tests::attack::{form, is_long};
use job_tests::{Env, api, eventually, is_running, measure, oracle, trials, until};
use nix::errno::Errno;
use nix::sys::inotify::{InitFlags, Inotify};
use nix::sys::signal::Signal;

/// So many jobs of user-a.
async fn start(env: &Env, count: usize, text: &str) -> Vec<String> {
    let mut client = env.client("user-a").await;
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(api::start(&mut client, api::script(text)).await.id);
    }
    ids
}

fn descriptors(env: &Env) -> usize {
    fs::read_dir(format!("/proc/{}/fd", env.broker().pid())).unwrap().count()
}

/// Seconds of CPU time that the broker has used so far.
fn cpu(env: &Env) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", env.broker().pid())).unwrap();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    // utime and stime, fields 14 and 15; a tick is 10 ms on every Linux.
    fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

/// What brokers have said, from a line on, but for starts and ends of jobs.
fn said(env: &Env, from: usize) -> Vec<String> {
    let is_of_a_job = |line: &&str| line.contains(" owner=") || line.contains("start ");
    env.log().lines().skip(from).filter(|line| !is_of_a_job(line)).map(Into::into).collect()
}

/// Whether no job that runs is still to be reached, and how many run.
async fn running(env: &Env) -> (usize, bool) {
    let mut client = env.client("user-a").await;
    let (mut count, mut recovering, mut page_token) = (0, 0, String::new());
    loop {
        let states = vec![State::Running.into()];
        let request = ListJobsRequest { states, page_token, ..Default::default() };
        let page = client.list_jobs(request).await.unwrap().into_inner();
        count += page.jobs.len();
        recovering += page.jobs.iter().filter(|job| job.recovering).count();
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return (count, recovering == 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn many_jobs_are_taken_over_soon_and_quietly_and_cost_a_descriptor_each() {
    let _alone = measure::alone();
    let mut env = Env::start();
    let (count, most) = form((300, Duration::from_secs(5)), (4_000, Duration::from_secs(10)));
    start(&env, count, "exec sleep 600").await;
    assert!(descriptors(&env) < count + 100, "{} for {count} jobs", descriptors(&env));
    let restart = async || {
        let lines = env.log().lines().count();
        let began = Instant::now();
        env.restart_broker();
        let mut served = Duration::ZERO;
        while running(&env).await != (count, true) {
            let called = Instant::now();
            env.jobctl("user-b", &["run", "--", "true"]).expect(0);
            served = served.max(called.elapsed());
        }
        assert!(descriptors(&env) < count + 100, "{} for {count} jobs", descriptors(&env));
        assert!(said(&env, lines).len() < 20, "{:?}", said(&env, lines));
        (began.elapsed(), served)
    };
    let is_right =
        |(took, served): &(Duration, Duration)| *took < most && *served < Duration::from_secs(2);
    let taken = trials(restart, is_right).await;
    assert!(is_right(&taken), "{taken:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_broker_with_fewer_descriptors_than_jobs_keeps_all_of_them_and_does_not_spin() {
    let _alone = measure::alone();
    let mut env = Env::start();
    let gate = env.gate();
    let waits = format!("{}; exit 5", gate.wait());
    let count = if is_long() { 400 } else { 60 };
    let sleeping = start(&env, count, "exec sleep 600").await;
    let waiting = start(&env, count, &waits).await;
    env.kill_broker();
    env.limit_descriptors(Some(96)); // places for two dozen
    let lines = env.log().lines().count();
    env.start_broker();
    assert_eq!(running(&env).await.0, 2 * count);
    let (before, window) = (cpu(&env), Duration::from_secs(2));
    std::thread::sleep(window); // the window itself
    let used = cpu(&env) - before;
    assert!(used < 0.5, "{used} s of CPU in {window:?}");
    assert!(descriptors(&env) < 96, "{}", descriptors(&env));
    // Whoever asks is served, whether or not that job has a connection.
    let mut client = env.client("user-a").await;
    let asked: Vec<_> = sleeping.iter().step_by(count / 6).collect();
    for id in &asked {
        api::stop(&mut client, id, Duration::from_secs(60)).await;
        let job = api::ended(&mut client, id).await;
        assert_eq!(
            (job.cause(), job.signal),
            (Cause::Stopped, Some(Signal::SIGTERM as i32)),
            "{job:?}"
        );
    }
    // Ends are noticed without one.
    waiting.iter().for_each(|_| gate.open());
    for id in &waiting {
        assert_eq!(api::ended(&mut client, id).await.exit_code, Some(5));
    }
    assert!(said(&env, lines).len() < 20, "{:?}", said(&env, lines));
    // And with descriptors for all of them, all is as ever.
    env.kill_broker();
    env.limit_descriptors(None);
    env.start_broker();
    let left = count - asked.len();
    let all = async || (running(&env).await == (left, true)).then_some(());
    eventually("all are reached", all).await;
}

/// `fs.inotify.max_user_instances` is 128 for all of root's programs together.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn without_inotify_files_are_looked_at_when_somebody_asks() {
    let _alone = measure::alone();
    let mut env = Env::start();
    let mut client = env.client("user-a").await;
    let gate = env.gate();
    let text = format!("echo up; {}; exec {} lines 20", gate.wait(), env.oracle());
    let id = api::start(&mut client, api::script(&text)).await.id;
    until("it is up", || env.stdout_log(&id).contains("up").then_some(()));
    let shim = env.cgroup().shim(&id).unwrap();
    env.kill_broker();
    fs::remove_file(env.path("run").join(&id)).unwrap(); // nobody can connect to it
    let mut taken = Vec::new();
    let full = loop {
        match Inotify::init(InitFlags::IN_CLOEXEC) {
            Ok(one) if taken.len() < 2_000 => taken.push(one),
            Ok(_) => break false, // a host that gives more than this is not filled up for a test
            Err(errno) => break errno == Errno::EMFILE,
        }
    };
    env.start_broker();
    let mut client = env.client("user-a").await;
    api::becomes(&mut client, &id, |job| !job.warnings.is_empty()).await;
    let before = cpu(&env);
    let follower = env.spawn_jobctl("user-a", &["logs", "-f", &id]);
    follower.wait_for_stdout("up");
    gate.open();
    follower.wait_for_stdout("o 0000000019");
    drop(taken);
    let output = follower.finish();
    oracle::assert_whole(output.stdout.strip_prefix(b"up\n").unwrap(), &output.stderr, 20);
    let job = api::ended(&mut client, &id).await;
    assert_eq!((job.state(), job.exit_code), (State::Finished, Some(0)));
    assert!(cpu(&env) - before < 1.0, "it looks, and does not spin");
    assert!(!is_running(shim));
    let told = env.log().lines().filter(|line| line.contains("inotify")).count();
    assert!(told <= 1 && (told == 1 || !full), "told once: {told}");
}
