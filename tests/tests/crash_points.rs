//! FAULTS 3: broker and shim are killed at every step that leaves something behind, each time that
//! they come to it, and what must hold, holds. The points are those of `job_shim::crash`: one that
//! is added there is tried here.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use job_api::client::Client;
use job_api::v1::isolation::Profile;
use job_api::v1::job::State;
use job_api::v1::{
    Cause, DeleteJobRequest, GetServerInfoRequest, Isolation, JobSpec, ListJobsRequest, Mount,
    PauseJobRequest, ResumeJobRequest, StartJobRequest, StopJobRequest, UpdateJobRequest,
};
use job_shim::crash::Point;
use job_tests::ledger::{self, RetryingClient};
use job_tests::{CRASH_AT, Env, Gate, HOLD_AT, Programs, TIMEOUT, api, scaled, small_root, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::Code;

const LINES: u64 = 40;
/// A point is tried at its first times only: later ones are those of other jobs.
const TIMES: u32 = 3;

fn env() -> Env {
    // One uid: one that is not given back is missed by the next job.
    Env::builder()
        .config("pool = [70000, 70000]")
        .programs(Programs::find().with_shim_for_development())
        .start()
}

/// What `JOB_CRASH_AT` or `JOB_HOLD_AT` is to be, and the file that tells whether it has come to that.
fn crash(env: &Env, point: Point, times: u32) -> (String, PathBuf) {
    let mark = env.path("mark");
    let _ = fs::remove_file(&mark);
    (format!("{}:{times}:{}", point.name(), mark.display()), mark)
}

fn is_marked(mark: &PathBuf) -> bool {
    fs::metadata(mark).is_ok_and(|file| file.len() > 0)
}

fn oracle(env: &Env, name: &str) -> StartJobRequest {
    ledger::request(env, name, &format!("exec {} lines {LINES}", env.oracle()))
}

fn sleeper(env: &Env, name: &str) -> StartJobRequest {
    long(env, name, "exec sleep 1000")
}

fn long(env: &Env, name: &str, script: &str) -> StartJobRequest {
    let mut request = ledger::request(env, name, script);
    let spec = request.spec.as_mut().unwrap();
    spec.time_limit = Some(api::duration(Duration::from_secs(500)));
    request
}

/// One that is not over before the gate lets it through, once it is asked to end.
fn reluctant(env: &Env, name: &str, gate: &Gate) -> StartJobRequest {
    // The shell would write there what has become of its sleep, and all output is the oracle's.
    let mut request = long(env, name, "while :; do sleep 1; done 2>/dev/null");
    let end = format!(r#"trap "" TERM; {}; kill -KILL $$"#, gate.wait());
    // In front of all: the line that tells of a run tells that it is in force, too.
    let text = &mut request.spec.as_mut().unwrap().argv[2];
    *text = format!("trap '{end}' TERM; {text}");
    request
}

fn missing(name: &str) -> StartJobRequest {
    let spec = JobSpec { run_as: "pool".into(), ..api::spec(&["/nonexistent"]) };
    ledger::named(name, spec)
}

/// A life of three jobs with everything that leaves something behind: start, run, end, update, pause,
/// resume, stop, a start that fails, delete. All of it as if nothing had happened, whatever the broker does.
async fn live(env: &mut Env, name: &str) {
    let caller = &mut RetryingClient::new(env, "user-a").await;
    let (a, b, c) = (format!("{name}-a"), format!("{name}-b"), format!("{name}-c"));

    let request = oracle(env, &a);
    let job = caller.start(env, &request).await.unwrap();
    caller.ended(env, &job.id).await;

    let gate = env.gate();
    let request = reluctant(env, &b, &gate);
    let sleeper = caller.start(env, &request).await.unwrap().id;
    let update = UpdateJobRequest {
        id: sleeper.clone(),
        time_limit: Some(api::duration(Duration::from_secs(900))),
        ..Default::default()
    };
    let change = async |client: &mut Client| client.update_job(update.clone()).await;
    let updated = caller.call(env, change).await.unwrap().into_inner().job.unwrap();
    assert_eq!(updated.state(), State::Running);
    until("it runs", || (!ledger::runs(env, &b).is_empty()).then_some(()));
    let pause = PauseJobRequest { id: sleeper.clone() };
    let pause = async |client: &mut Client| client.pause_job(pause.clone()).await;
    let paused = caller.call(env, pause).await.unwrap().into_inner().job.unwrap();
    assert_eq!(paused.state(), State::Paused);
    let resume = ResumeJobRequest { id: sleeper.clone() };
    let resume = async |client: &mut Client| client.resume_job(resume.clone()).await;
    let resumed = caller.call(env, resume).await.unwrap().into_inner().job.unwrap();
    assert_eq!(resumed.state(), State::Running);
    let grace = Some(api::duration(TIMEOUT));
    let stop = StopJobRequest { id: sleeper.clone(), grace };
    let stop = async |client: &mut Client| client.stop_job(stop.clone()).await;
    caller.call(env, stop).await.unwrap();
    gate.open();

    let refused = caller.start(env, &missing(&c)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");

    let jobs = caller.judge(env, &a, LINES).await;
    let (answer, before) = jobs.split_last().unwrap();
    assert_eq!((&answer.id, answer.exit_code), (&job.id, Some(ledger::EXIT)), "{answer:?}");
    assert!(!answer.incomplete);
    assert!(before.iter().all(|job| job.cause() == Cause::StartFailed), "{before:?}");
    let jobs = caller.judge(env, &b, 0).await;
    let answer = jobs.last().unwrap();
    // A stop that was asked of a broker which died of it may have been lost with it.
    assert_eq!((&answer.id, answer.cause()), (&sleeper, Cause::Stopped), "{answer:?}");
    let limit = answer.limits.iter().find(|limit| limit.name == "time_limit").unwrap();
    assert_eq!(limit.requested, updated.limits[0].requested, "{limit:?}");
    for job in caller.judge(env, &c, 0).await {
        assert_eq!(job.cause(), Cause::StartFailed, "{job:?}");
    }
    assert_eq!((ledger::runs(env, &a).len(), ledger::runs(env, &b).len()), (1, 1));
}

/// Nothing is left, and then nothing is left of what was kept either.
async fn leave(env: &mut Env) {
    let caller = &mut RetryingClient::new(env, "user-a").await;
    let list = async |client: &mut Client| client.list_jobs(ListJobsRequest::default()).await;
    for job in caller.call(env, list).await.unwrap().into_inner().jobs {
        caller.ended(env, &job.id).await;
        let delete = DeleteJobRequest { id: job.id };
        let delete = async |client: &mut Client| client.delete_job(delete.clone()).await;
        match caller.call(env, delete).await {
            Ok(_) => {}
            Err(status) => assert_eq!(status.code(), Code::NotFound, "{status:?}"),
        }
    }
    let info = async |client: &mut Client| client.get_server_info(GetServerInfoRequest {}).await;
    let info = caller.call(env, info).await.unwrap().into_inner();
    assert!(info.quarantined.is_empty(), "{:?}", info.quarantined);
    env.assert_clean();
    let names = |path| fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = names(env.path("state/jobs")).collect();
    assert!(left.is_empty(), "{left:?}");
    let known = ["audit", "epoch", "finished.idx", "jobs", "lock", "spare"];
    let is_draft = |name: &OsString| !known.iter().any(|known| name == known);
    let drafts: Vec<_> = names(env.path("state")).filter(is_draft).collect();
    assert!(drafts.is_empty(), "{drafts:?}");
}

/// A broker that dies there lives on in the next one, and nobody else notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_broker_killed_at_any_step_changes_nothing() {
    let mut env = env();
    let mut tried = 0;
    for &point in Point::BROKER {
        for times in 1..=scaled(TIMES, 1) {
            let (at, mark) = crash(&env, point, times);
            env.crash_brokers(Some(at));
            env.kill_broker();
            let name = format!("{}-{times}", point.name());
            eprintln!("{name}");
            if times == 1 && point == Point::RemovalBegun {
                // Which is what `leave` comes to.
                ledger::revive(&mut env);
            }
            live(&mut env, &name).await;
            leave(&mut env).await;
            if !is_marked(&mark) {
                assert!(times > 1 || needs_a_recovery(point), "it never comes to {point:?}");
                break;
            }
            tried += 1;
        }
    }
    assert!(tried >= Point::BROKER.len() - 1, "{tried}");
}

/// Those that only a broker comes to which finds jobs.
fn needs_a_recovery(point: Point) -> bool {
    point == Point::TakenOver
}

/// What the next broker finds: a job that has ended, one that runs, one whose shim was killed, one
/// that was never told GO. It dies over them, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_broker_killed_at_any_step_of_a_recovery_changes_nothing() {
    let mut env = Env::builder()
        .config("pool = [70000, 70003]")
        .programs(Programs::find().with_shim_for_development())
        .start();
    let mut tried = 0;
    for &point in Point::BROKER {
        for times in 1..=scaled(TIMES + 1, 1) {
            let name = format!("found-{}-{times}", point.name());
            eprintln!("{name}");
            let jobs = prepare(&mut env, &name).await;
            let (at, mark) = crash(&env, point, times);
            env.crash_brokers(Some(at));
            let caller = &mut RetryingClient::new(&mut env, "user-a").await;
            settle(&mut env, caller, &name, &jobs).await;
            leave(&mut env).await;
            env.kill_broker();
            env.crash_brokers(None);
            env.start_broker();
            if !is_marked(&mark) {
                break;
            }
            tried += 1;
        }
    }
    assert!(tried > 8, "{tried}");
}

/// And leaves no broker.
async fn prepare(env: &mut Env, name: &str) -> [String; 3] {
    let caller = &mut RetryingClient::new(env, "user-a").await;
    let gate = env.gate();
    let script = format!("{}; exec {} lines {LINES}", gate.wait(), env.oracle());
    let mut ids = Vec::new();
    let ends = ledger::request(env, &format!("{name}-ends"), &script);
    for request in
        [ends, sleeper(env, &format!("{name}-runs")), sleeper(env, &format!("{name}-lost"))]
    {
        ids.push(caller.start(env, &request).await.unwrap().id);
    }
    let [ends, runs, lost]: [String; 3] = ids.try_into().unwrap();
    until("the shim has started it", || {
        (!ledger::runs(env, &format!("{name}-lost")).is_empty()).then_some(())
    });
    let (at, _) = crash(env, Point::SpawnWritten, 1);
    env.kill_broker();
    env.crash_brokers(Some(at));
    env.start_broker();
    let mut client = env.client("user-a").await;
    let never = oracle(env, &format!("{name}-never"));
    client.start_job(never).await.unwrap_err();
    until("the broker has died", || env.broker_has_died().then_some(()));
    gate.open();
    kill(Pid::from_raw(env.cgroup().shim(&lost).unwrap()), Signal::SIGKILL).unwrap();
    until("the shim has ended", || env.cgroup().shim(&ends).is_none().then_some(()));
    [ends, runs, lost]
}

async fn settle(env: &mut Env, caller: &mut RetryingClient, name: &str, jobs: &[String; 3]) {
    let [ends, runs, lost] = jobs;
    let ended = caller.ended(env, ends).await;
    assert_eq!((ended.exit_code, ended.incomplete), (Some(ledger::EXIT), false), "{ended:?}");
    let gone = caller.ended(env, lost).await;
    assert_eq!((gone.state(), gone.failure.unwrap().step.as_str()), (State::Lost, "shim"));
    let stop = StopJobRequest { id: runs.clone(), grace: None };
    let stop = async |client: &mut Client| client.stop_job(stop.clone()).await;
    caller.call(env, stop).await.unwrap();
    assert_eq!(caller.ended(env, runs).await.cause(), Cause::Stopped);
    for which in ["ends", "runs", "lost", "never"] {
        let jobs = caller.judge(env, &format!("{name}-{which}"), LINES).await;
        assert_eq!(jobs.len(), 1, "{jobs:?}");
    }
    assert!(ledger::runs(env, &format!("{name}-never")).is_empty());
}

/// One that is asked of a job which is in memory only is answered when it is on record.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stop_that_overtakes_its_jobs_start_outlives_the_broker() {
    let mut env = env();
    let (at, mark) = crash(&env, Point::JobRegistered, 1);
    env.hold_brokers(at);
    env.restart_broker();
    let mut client = env.client("user-a").await;
    let (mut starter, request) = (client.clone(), sleeper(&env, "overtaken"));
    let start = tokio::spawn(async move { starter.start_job(request).await });
    until("the start is held", || is_marked(&mark).then_some(()));
    let jobs = client.list_jobs(ListJobsRequest::default()).await.unwrap().into_inner().jobs;
    let [job] = jobs.as_slice() else { panic!("{jobs:?}") };
    assert_eq!((job.state(), env.job_dir(&job.id).exists()), (State::Starting, false));

    let (mut stopper, id) = (client.clone(), job.id.clone());
    let stop = tokio::spawn(async move { api::stop(&mut stopper, &id, Duration::ZERO).await });
    until("the stop is heard", || env.log().contains("stop requested").then_some(()));
    assert!(!stop.is_finished(), "nothing would know of it but this broker");
    fs::remove_file(&mark).unwrap();
    stop.await.unwrap();
    env.kill_broker();
    start.abort();
    env.crash_brokers(None);
    env.start_broker();
    let ended = api::ended(&mut env.client("user-a").await, &job.id).await;
    let said = (ended.cause(), ended.ended_by.as_str());
    assert_eq!(said, (Cause::Stopped, "user-a"), "{ended:?}");
    leave(&mut env).await;
}

/// A shim that dies takes its job with it, and nothing else; after the end is on record, not even that.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_shim_killed_at_any_step_loses_its_own_job_at_most() {
    let mut env = env();
    for &point in Point::SHIM {
        eprintln!("{point:?}");
        let mut marked = false;
        for way in [Way::Runs, Way::IsMissing, Way::IsAbandoned] {
            marked = try_shim(&mut env, point, way).await;
            leave(&mut env).await;
            if marked {
                break;
            }
        }
        assert!(marked, "it never comes to {point:?}");
    }
}

/// What the job is that has such a shim.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Runs,
    IsMissing,
    /// Its broker dies before GO.
    IsAbandoned,
}

async fn try_shim(env: &mut Env, point: Point, way: Way) -> bool {
    let name = format!("{}-{way:?}", point.name());
    if way == Way::IsAbandoned {
        let (at, _) = crash(env, Point::SpawnWritten, 1);
        env.crash_brokers(Some(at));
        env.kill_broker();
    }
    let caller = &mut RetryingClient::new(env, "user-a").await;
    let (at, mark) = crash(env, point, 1);
    let mut request = if way == Way::IsMissing { missing(&name) } else { oracle(env, &name) };
    request.spec.as_mut().unwrap().env.insert(CRASH_AT.into(), at);
    let answer = caller.start(env, &request).await;
    let jobs = caller.judge(env, &name, LINES).await;
    let job = jobs.last().unwrap();
    if let Ok(started) = answer {
        assert_eq!(started.id, job.id);
    }
    // From then on its end is on record.
    let recorded = [
        Point::OutcomeRecorded,
        Point::ExitSaid,
        Point::EndSaid,
        Point::LogsSynced,
        Point::TotalsRecorded,
        Point::ExitSynced,
    ];
    if way == Way::Runs && recorded.contains(&point) {
        assert_eq!((job.state(), job.exit_code), (State::Finished, Some(ledger::EXIT)), "{job:?}");
    }
    // Asked again, it is the same answer, of a broker that has only the disk to know it from.
    let failed = |status: tonic::Status| (status.code(), status.message().to_owned());
    let first = caller.start(env, &request).await.map(|job| job.id).map_err(failed);
    env.restart_broker();
    let caller = &mut RetryingClient::new(env, "user-a").await;
    let second = caller.start(env, &request).await.map(|job| job.id).map_err(failed);
    if way != Way::IsAbandoned {
        assert_eq!(first, second);
    }
    let jobs = caller.judge(env, &name, LINES).await;
    // It has told the end, and not that the disk has all of its output. On record, if not at once.
    if way == Way::Runs && [Point::EndSaid, Point::LogsSynced].contains(&point) {
        assert!(jobs.last().unwrap().incomplete, "{jobs:?}");
    }
    is_marked(&mark)
}

/// What dies there, while its child is held there or by itself.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Dies {
    Child,
    Shim,
    Broker,
}

/// Mount namespaces in use, and the mounts of this one but for those of tests beside this one.
fn mounts() -> (BTreeSet<PathBuf>, String) {
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let all = processes.filter_map(|process| fs::read_link(process.join("ns/mnt")).ok()).collect();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let own = format!("/job-tests-{}-", std::process::id());
    let is_own = |line: &&str| !line.contains("/job-tests-") || line.contains(&own);
    (all, mounts.lines().filter(is_own).collect::<Vec<_>>().join("\n"))
}

/// What the root of a job is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Root {
    /// A base of the host.
    View,
    /// A directory, under an overlay in memory.
    Directory,
}

/// With everything that a job may have of its own.
fn isolated(env: &Env, root: Root, name: &str, (variable, at): (&str, String)) -> StartJobRequest {
    let ran = env.shared().join(name).display().to_string();
    let mut isolation = Isolation { hostname: "own".into(), ..Isolation::default() };
    isolation.set_profile(Profile::Strict);
    if root == Root::Directory {
        isolation.rootfs = env.path("root").display().to_string();
        isolation.root_bytes = 1 << 20;
    }
    let shared = env.shared().display().to_string();
    let bind = Mount { source: shared.clone(), target: shared, ..Mount::default() };
    let memory = Mount { target: "/x".into(), tmpfs_bytes: 1 << 20, ..Mount::default() };
    isolation.mounts = vec![bind, memory];
    let mut spec = JobSpec {
        run_as: "pool".into(),
        isolation: Some(isolation),
        ..api::spec(&["/bin/sh", "-c", "echo x >\"$0\"", &ran])
    };
    spec.env.insert(variable.into(), at);
    ledger::named(name, spec)
}

/// It runs once or not at all, nothing of it is left on the host, and the next job is as ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_start_that_dies_between_steps_of_its_isolation_leaves_nothing() {
    let mut env = Env::builder()
        .config("pool = [70000, 70000]")
        .programs(Programs::find().with_shim_for_development())
        .sections("[isolation]\nread_write = [\"{dir}/shared\"]\nrootfs = [\"{dir}/root\"]\n")
        .start();
    small_root::make(&env.path("root"));
    let before = mounts();
    for (&point, root) in
        Point::CHILD.iter().flat_map(|point| [(point, Root::View), (point, Root::Directory)])
    {
        for dies in [Dies::Child, Dies::Shim, Dies::Broker] {
            let name = format!("{}-{root:?}-{dies:?}", point.name());
            eprintln!("{name}");
            let (at, mark) = crash(&env, point, 1);
            let variable = if dies == Dies::Child { CRASH_AT } else { HOLD_AT };
            let request = isolated(&env, root, &name, (variable, at));
            let mut client = env.client("user-a").await;
            let start = tokio::spawn(async move { client.start_job(request).await });
            until("it comes to that", || is_marked(&mark).then_some(()));
            match dies {
                Dies::Child => {}
                Dies::Shim => {
                    let [job] = &env.cgroup().jobs()[..] else { panic!("one job") };
                    kill(Pid::from_raw(env.cgroup().shim(job).unwrap()), Signal::SIGKILL).unwrap();
                }
                Dies::Broker => env.restart_broker(),
            }
            let answer = start.await.unwrap();
            // A child that is killed says nothing: whether it had come to its program nobody knows.
            assert!(answer.is_err() || dies == Dies::Child, "{answer:?}");
            let _ = fs::remove_file(&mark); // a child that is held goes on
            let mut client = env.client("user-a").await;
            let jobs = client.list_jobs(ListJobsRequest::default()).await.unwrap().into_inner();
            let mut causes = Vec::new();
            for job in jobs.jobs {
                causes.push(api::ended(&mut client, &job.id).await.cause());
            }
            let allowed: &[Cause] = match dies {
                Dies::Child => &[Cause::StartFailed, Cause::Signaled],
                Dies::Shim => &[Cause::StartFailed, Cause::Lost],
                // GO may have been said by then: the job runs, as ever.
                Dies::Broker => &[Cause::StartFailed, Cause::Exited],
            };
            assert!(causes.iter().all(|cause| allowed.contains(cause)), "{causes:?}");
            leave(&mut env).await;
            let has_run = env.shared().join(&name).exists();
            assert_eq!(has_run, causes.contains(&Cause::Exited), "{causes:?}");
            until("its namespaces are gone", || mounts().0.is_subset(&before.0).then_some(()));
            assert_eq!(mounts().1, before.1, "the host's mounts");
        }
    }
    let (at, _) = crash(&env, Point::ExitSynced, 2);
    let request = isolated(&env, Root::View, "after", (CRASH_AT, at));
    let job = env.client("user-a").await.start_job(request).await.unwrap().into_inner();
    let id = job.job.unwrap().id;
    assert_eq!(api::ended(&mut env.client("user-a").await, &id).await.exit_code, Some(0));
    assert!(env.shared().join("after").exists());
}
