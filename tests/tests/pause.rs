//! Jobs that stand still, and go on.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use job_api::client::Client;
use job_api::v1::job::State;
use job_api::v1::{Cause, ListJobsRequest, UpdateJobRequest};
use job_shim::crash::Point;
use job_tests::refusal::assert_precondition;
use job_tests::{Env, Hold, api, measure, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A job of two processes, each of which lets a file grow: without the shim, which may have output
/// to read when the job stands still.
async fn counting(env: &Env, client: &mut Client) -> (String, [PathBuf; 2]) {
    let files = ["one", "two"].map(|name| env.shared().join(name));
    let [one, two] = files.each_ref().map(|path| {
        let _ = fs::remove_file(path); // of an earlier one
        format!("while :; do echo >>{}; sleep 0.005; done", path.display())
    });
    let text = format!("trap 'echo bye; exit 3' TERM; ({one}) & {two}");
    let id = api::start(client, api::script(&text)).await.id;
    until("both count", || files.iter().all(|path| path.exists()).then_some(()));
    (id, files)
}

fn count(files: &[PathBuf]) -> u64 {
    files.iter().map(|path| fs::metadata(path).unwrap().len()).sum()
}

async fn assert_stands_still(files: &[PathBuf]) {
    let before = count(files);
    tokio::time::sleep(Duration::from_millis(300)).await; // the window
    assert_eq!(count(files), before);
}

fn wait_until_it_counts(files: &[PathBuf]) {
    let before = count(files);
    until("it goes on", || (count(files) > before + 5).then_some(()));
}

fn frozen(env: &Env, id: &str) -> bool {
    let events = fs::read_to_string(env.cgroup().workload(id).join("cgroup.events")).unwrap();
    events.contains("frozen 1")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_paused_job_stands_still_until_it_is_resumed() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let (id, files) = counting(&env, &mut client).await;
    for _ in 0..2 {
        let job = api::pause(&mut client, &id).await.unwrap();
        assert_eq!(job.state(), State::Paused);
        // When it answers they do.
        assert_stands_still(&files).await;
        assert!(frozen(&env, &id));
        api::pause(&mut client, &id).await.expect("it is paused already, and that is fine");
        assert_eq!(api::job(&mut client, &id).await.state(), State::Paused);
    }
    let states = vec![State::Paused.into()];
    let request = ListJobsRequest { states, ..Default::default() };
    assert_eq!(client.list_jobs(request).await.unwrap().into_inner().jobs.len(), 1);

    for _ in 0..2 {
        let job = api::resume(&mut client, &id).await.unwrap();
        assert_eq!(job.state(), State::Running, "also one that is not paused");
        wait_until_it_counts(&files);
    }
    api::stop(&mut client, &id, Duration::ZERO).await;
    api::ended(&mut client, &id).await;
    env.assert_clean();
}

fn signal_shim(env: &Env, id: &str, signal: Signal) {
    kill(Pid::from_raw(env.cgroup().shim(id).unwrap()), signal).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_caller_has_asked_for_who_hangs_up_is_done_and_shown() {
    let mut env = Env::start();
    let (id, files) = counting(&env, &mut env.client("user-a").await).await;
    let (running, paused) = (State::Running, State::Paused);
    for (pauses, before, after) in [(true, running, paused), (false, paused, running)] {
        let hold = Hold::at(&mut env, Point::FreezeDue.name());
        let mut client = env.client("user-a").await;
        let (mut caller, job) = (client.clone(), id.clone());
        let call = tokio::spawn(async move {
            if pauses {
                api::pause(&mut caller, &job).await
            } else {
                api::resume(&mut caller, &job).await
            }
        });
        hold.is_reached();
        call.abort();
        call.await.unwrap_err();
        // Over the same connection, so that the broker has heard that nobody waits any more.
        assert_eq!(api::job(&mut client, &id).await.state(), before);
        hold.let_go();
        api::becomes(&mut client, &id, |job| job.state() == after).await;
        if pauses {
            assert_stands_still(&files).await;
        } else {
            wait_until_it_counts(&files);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_pause_that_the_end_of_its_job_overtakes_is_refused_for_that() {
    let mut env = Env::start();
    let (id, _) = counting(&env, &mut env.client("user-a").await).await;
    let hold = Hold::at(&mut env, Point::FreezeDue.name());
    let mut client = env.client("user-a").await;
    let (mut caller, job) = (client.clone(), id.clone());
    let pause = tokio::spawn(async move { api::pause(&mut caller, &job).await });
    hold.is_reached();
    api::stop(&mut client, &id, Duration::ZERO).await;
    api::ended(&mut client, &id).await;
    hold.let_go();
    assert_precondition(&pause.await.unwrap().unwrap_err(), &["finished"]);
    env.assert_clean();
}

/// The shim has asked it to end, and let it go on for that. A broker that cannot hear of it freezes it
/// again.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_job_that_its_deadline_ends_does_not_stand_still_for_a_pause_that_came_too_late() {
    let mut env = Env::start();
    let gate = env.gate();
    let on_term = format!("echo asked; {}; echo bye; exit 3", gate.wait());
    let text = format!("trap '{on_term}' TERM; echo up; while :; do sleep 0.05; done");
    let mut spec = api::script(&text);
    spec.stop_timeout = Some(api::duration(Duration::from_secs(1000)));
    let mut client = env.client("user-a").await;
    let id = api::start(&mut client, spec).await.id;
    until("it is up", || env.stdout_log(&id).contains("up").then_some(()));
    api::end_in(&mut client, &id, Duration::from_millis(500)).await;
    env.kill_broker();
    until("it is asked to end", || env.stdout_log(&id).contains("asked").then_some(()));
    signal_shim(&env, &id, Signal::SIGSTOP);
    env.start_broker();
    let mut client = env.client("user-a").await;
    let job = api::pause(&mut client, &id).await.unwrap();
    assert_eq!((job.state(), frozen(&env, &id)), (State::Paused, true));
    signal_shim(&env, &id, Signal::SIGCONT);
    api::becomes(&mut client, &id, |job| job.state() == State::Stopping).await;
    until("it goes on", || (!frozen(&env, &id)).then_some(()));
    gate.open();
    let job = api::ended(&mut client, &id).await;
    assert_eq!((job.cause(), job.exit_code), (Cause::TimedOut, Some(3)), "{job:?}");
    env.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_paused_job_that_is_being_stopped_can_be_let_go_on_while_its_shim_sleeps() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let (id, files) = counting(&env, &mut client).await;
    api::pause(&mut client, &id).await.unwrap();
    signal_shim(&env, &id, Signal::SIGSTOP);
    api::stop(&mut client, &id, Duration::from_secs(1000)).await;
    assert!(frozen(&env, &id), "nobody has asked it yet");
    let job = api::resume(&mut client, &id).await.unwrap();
    assert_eq!((job.state(), frozen(&env, &id)), (State::Stopping, false));
    wait_until_it_counts(&files);
    signal_shim(&env, &id, Signal::SIGCONT);
    let job = api::ended(&mut client, &id).await;
    assert_eq!((job.cause(), job.exit_code), (Cause::Stopped, Some(3)), "{job:?}");
    env.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_paused_job_stays_so_under_the_next_broker() {
    let mut env = Env::start();
    let mut client = env.client("user-a").await;
    let (id, files) = counting(&env, &mut client).await;
    env.jobctl("user-a", &["pause", &id]).expect(0);
    env.restart_broker();
    let mut client = env.client("user-a").await;
    let job = api::job(&mut client, &id).await;
    assert_eq!(job.state(), State::Paused);
    assert_stands_still(&files).await;
    let shown = env.jobctl("user-a", &["ps"]).out();
    assert!(shown.contains("paused"), "{shown}");
    env.jobctl("user-a", &["resume", &id]).expect(0);
    wait_until_it_counts(&files);
    env.restart_broker();
    assert_eq!(api::job(&mut env.client("user-a").await, &id).await.state(), State::Running);
    wait_until_it_counts(&files);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stop_asks_a_paused_job_too() {
    let mut env = Env::start();
    for restart in [false, true] {
        let mut client = env.client("user-a").await;
        let (id, _) = counting(&env, &mut client).await;
        api::pause(&mut client, &id).await.unwrap();
        if restart {
            env.restart_broker();
        }
        let mut client = env.client("user-a").await;
        api::stop(&mut client, &id, Duration::from_secs(60)).await;
        let job = api::ended(&mut client, &id).await;
        assert_eq!((job.cause(), job.exit_code), (Cause::Stopped, Some(3)), "{job:?}");
        assert_eq!(api::output(&mut client, &id).await.stdout, b"bye\n");
    }
    env.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_paused_job_that_does_not_obey_is_killed() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let text = "trap '' TERM; echo up; while :; do sleep 0.05; done";
    for grace in [Duration::ZERO, Duration::from_millis(300)] {
        let id = api::start(&mut client, api::script(text)).await.id;
        until("it is up", || env.stdout_log(&id).contains("up").then_some(()));
        api::pause(&mut client, &id).await.unwrap();
        api::stop(&mut client, &id, grace).await;
        let job = api::ended(&mut client, &id).await;
        assert_eq!((job.cause(), job.signal), (Cause::Stopped, Some(9)));
    }
    env.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_deadline_goes_on_while_the_job_is_paused() {
    let mut env = Env::start();
    for broker in [true, false] {
        let mut client = env.client("user-a").await;
        let (id, _) = counting(&env, &mut client).await;
        api::pause(&mut client, &id).await.unwrap();
        api::end_in(&mut client, &id, Duration::from_millis(1500)).await;
        if !broker {
            env.kill_broker();
            until("it has ended", || env.cgroup().shim(&id).is_none().then_some(()));
            env.start_broker();
        }
        let mut client = env.client("user-a").await;
        let job = api::ended(&mut client, &id).await;
        assert_eq!((job.cause(), job.exit_code), (Cause::TimedOut, Some(3)), "{job:?}");
        assert_eq!(api::output(&mut client, &id).await.stdout, b"bye\n", "it was asked");
    }
    env.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_paused_job_uses_no_cpu_time() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let id = api::start(&mut client, api::script("while :; do :; done")).await.id;
    api::pause(&mut client, &id).await.unwrap();
    let before = measure::cpu_usec(&env, &id);
    let left = Duration::from_micros(before) + Duration::from_millis(700);
    let cpu_time_limit = Some(api::duration(left));
    let request = UpdateJobRequest { id: id.clone(), cpu_time_limit, ..Default::default() };
    api::updated(&mut client, request).await;
    tokio::time::sleep(Duration::from_secs(1)).await; // longer than what is left
    let used = measure::cpu_usec(&env, &id) - before;
    assert!(used < 1000, "{used} us: the kernel's own work at most");
    assert_eq!(api::job(&mut client, &id).await.state(), State::Paused);
    api::resume(&mut client, &id).await.unwrap();
    let job = api::ended(&mut client, &id).await;
    assert_eq!(job.ended_by_limit, "cpu_time_limit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn jobs_that_are_ending_or_have_ended_cannot_be_paused() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let text = "trap '' TERM; echo up; while :; do sleep 0.05; done";
    let id = api::start(&mut client, api::script(text)).await.id;
    until("it is up", || env.stdout_log(&id).contains("up").then_some(()));
    api::stop(&mut client, &id, Duration::from_secs(60)).await;
    let refused = api::pause(&mut client, &id).await.unwrap_err();
    assert_precondition(&refused, &["stopping"]);
    assert!(!frozen(&env, &id));
    api::stop(&mut client, &id, Duration::ZERO).await;
    api::ended(&mut client, &id).await;
    let refused = api::pause(&mut client, &id).await.unwrap_err();
    assert_precondition(&refused, &["finished"]);
    env.assert_clean();
}
