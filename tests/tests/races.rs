//! What is asked of a job between two steps of its start or of its end, at which the broker is held.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::future::Future;
use std::time::{Duration, Instant};

use job_api::client::Client;
use job_api::v1::job::State;
use job_api::v1::{
    DeleteJobRequest, Job, JobSpec, ListJobsRequest, SignalJobRequest, StreamOutputRequest,
    UpdateJobRequest,
};
use job_shim::crash::Point;
use job_tests::{Env, Hold, api, trials, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

/// An answer that a broker gives at once is there by then.
const AT_ONCE: Duration = Duration::from_millis(300);

/// An environment whose broker waits at this point.
fn held_at(point: Point) -> (Env, Hold) {
    let mut env = Env::start();
    let hold = Hold::at(&mut env, point.name());
    (env, hold)
}

/// Asks now; the answer is given when what is held goes on.
async fn not_at_once<T: Send + 'static>(
    ask: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    let mut asked = tokio::spawn(ask);
    let early = tokio::time::timeout(AT_ONCE, &mut asked).await;
    assert!(early.is_err(), "it is answered before anybody can know");
    asked
}

fn kill_shim(env: &Env, id: &str) {
    kill(Pid::from_raw(env.cgroup().shim(id).unwrap()), Signal::SIGKILL).unwrap();
}

async fn only_job(client: &mut Client) -> Job {
    let mut jobs = client.list_jobs(ListJobsRequest::default()).await.unwrap().into_inner().jobs;
    assert_eq!(jobs.len(), 1, "{jobs:?}");
    jobs.remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_reader_that_comes_before_the_first_step_of_a_start_reads_all() {
    let (env, hold) = held_at(Point::JobRegistered);
    let mut client = env.client("user-a").await;
    let mut starter = client.clone();
    let start = tokio::spawn(async move { api::start(&mut starter, api::script("echo up")).await });
    hold.is_reached();
    let id = only_job(&mut client).await.id;
    let mut reader = client.clone();
    let read = async move { api::output(&mut reader, &id).await };
    let read = not_at_once(read).await;
    hold.let_go();
    assert_eq!(read.await.unwrap().stdout, b"up\n");
    start.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn output_of_a_job_that_is_removed_in_this_moment_is_not_found() {
    let (env, hold) = held_at(Point::CgroupRemoved);
    let mut client = env.client("user-a").await;
    let id = api::start(&mut client, api::script("echo up")).await.id;
    hold.is_reached();
    fs::rename(env.job_dir(&id), env.path("state/removed")).unwrap();
    let request = StreamOutputRequest { id, follow: true, ..Default::default() };
    let refused = api::try_read(&mut client, request).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
    hold.let_go();
}

/// While the broker puts the end of a job on record whose shim has left without a word, the job is not
/// "out of reach".
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_asked_of_a_job_whose_end_is_being_recorded_is_told_that_it_has_ended() {
    let ask = async || {
        let (env, hold) = held_at(Point::ShimGone);
        let mut client = env.client("user-a").await;
        let id = api::start(&mut client, api::spec(&["sleep", "1000"])).await.id;
        kill_shim(&env, &id);
        hold.is_reached();
        let began = Instant::now();
        let (mut signaler, mut updater) = (client.clone(), client.clone());
        let signal = SignalJobRequest { id: id.clone(), signal: 10 };
        let limit = Some(api::duration(Duration::from_secs(60)));
        let update = UpdateJobRequest { id, time_limit: limit, ..Default::default() };
        let signal = not_at_once(async move { signaler.signal_job(signal).await.map(drop) }).await;
        let update = not_at_once(async move { api::update(&mut updater, update).await }).await;
        hold.let_go();
        let told = [signal.await.unwrap(), update.await.unwrap().map(drop)];
        (began.elapsed(), told)
    };
    // So long the broker waits for what it does not know to have ended.
    let (_, told) = trials(ask, |(took, _)| *took < Duration::from_secs(2)).await;
    for told in told {
        let refused: Status = told.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(refused.message().contains("has ended"), "{refused}");
    }
}

/// One that ended while no broker was there is found to have, and not said to run on.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn after_a_restart_an_ended_job_can_be_removed_and_its_name_is_free() {
    let mut env = Env::start();
    let gate = env.gate();
    let named = |text: &str| JobSpec { name: "nightly".into(), ..api::script(text) };
    let id = api::start(&mut env.client("user-a").await, named(&gate.wait())).await.id;
    let shim = env.cgroup().shim(&id).unwrap();
    let hold = Hold::next_broker(&mut env, Point::ShimGone.name());
    env.kill_broker();
    gate.open();
    until("it has ended", || (!job_tests::is_running(shim)).then_some(()));
    env.start_broker();
    hold.is_reached();
    let mut client = env.client("user-a").await;
    let (mut starter, mut remover) = (client.clone(), client.clone());
    let again = named("exit 3");
    let start = not_at_once(async move { api::try_start(&mut starter, again).await }).await;
    let delete = DeleteJobRequest { id: id.clone() };
    let delete = not_at_once(async move { remover.delete_job(delete).await.map(drop) }).await;
    hold.let_go();
    let started = start.await.unwrap().unwrap();
    delete.await.unwrap().unwrap();
    assert_eq!(api::ended(&mut client, &started.id).await.exit_code, Some(3));
    assert_eq!(only_job(&mut client).await.id, started.id);
}

/// Its last record is there by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_job_whose_cgroup_has_gone_in_this_moment_shows_what_it_has_used() {
    let (env, hold) = held_at(Point::CgroupRemoved);
    let mut client = env.client("user-a").await;
    let id = api::start(&mut client, api::script("exit 3")).await.id;
    hold.is_reached();
    let job = api::job(&mut client, &id).await;
    assert_eq!((job.state(), job.exit_code), (State::Finished, Some(3)));
    hold.let_go();
    let ended = api::ended(&mut client, &id).await;
    assert!(ended.usage.as_ref().is_some_and(|usage| usage.cpu_usage_usec.is_some()), "{ended:?}");
    assert_eq!((job.usage, job.limits), (ended.usage, ended.limits));
}
