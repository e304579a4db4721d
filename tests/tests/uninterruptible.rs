//! Processes that sleep in the kernel and cannot be killed there, as on a disk that is frozen.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use job_api::v1::isolation::Profile;
use job_api::v1::job::State;
use job_api::v1::{Cause, DeleteJobRequest, Isolation, JobSpec};
use job_tests::host::{self, Need};
use job_tests::{Env, Gate, api, eventually, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::Code;

/// In a pid namespace the shim is process 1, which cannot end before all others in it have; in `host` it can.
const PROFILES: [Profile; 3] = [Profile::Host, Profile::Private, Profile::Strict];

/// Longer than the broker gives the shim of a job whose processes are all gone.
const SHIMS_WORD: Duration = Duration::from_secs(4);

/// Grace, 15 s for a shim to say what it has to, 10 s for the kernel to kill, and some for a slow machine.
const DRAIN: Duration = Duration::from_secs(45);

/// Of a disk that others write on as well, a test keeps its hands.
fn can_freeze() -> bool {
    if !job_tests::is_testbed() {
        host::skip("only the testbed's disk is nobody else's");
        return false;
    }
    host::has(&[Need::Disk]) && host::has_program("fsfreeze", "--version")
}

/// A file system on which nobody can write, until this is dropped.
struct Frozen(PathBuf);

impl Frozen {
    fn new(dir: &Path) -> Frozen {
        freeze("--freeze", dir);
        Frozen(dir.to_owned())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        freeze("--unfreeze", &self.0);
    }
}

fn freeze(how: &str, dir: &Path) {
    let status = Command::new("fsfreeze").arg(how).arg(dir).status().unwrap();
    assert!(status.success(), "fsfreeze {how} {}", dir.display());
}

/// The workload of a job, once some of it sleeps so.
fn asleep(env: &Env, id: &str) -> Vec<i32> {
    let sleeps = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('D'))
    };
    until("it sleeps in the kernel", || {
        let work = env.cgroup().work(id);
        work.iter().any(sleeps).then_some(work)
    })
}

/// A job that writes to the disk once the gate opens, and from then on sleeps there.
fn writer(disk: &Path, gate: &Gate, profile: Profile) -> JobSpec {
    let file = disk.join(profile.as_str_name());
    let text = format!("echo up; {}; echo x >{}", gate.wait(), file.display());
    let isolation = Isolation { profile: profile.into(), ..Isolation::default() };
    JobSpec { isolation: Some(isolation), ..api::script(&text) }
}

/// A host that goes down does not wait for a disk that does not answer, and the jobs are on record.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_drain_ends_and_records_what_cannot_be_killed() {
    if !can_freeze() {
        return;
    }
    let mut env = Env::start();
    let disk = host::disk();
    let gates = PROFILES.map(|_| env.gate());
    let mut ids = Vec::new();
    for (profile, gate) in PROFILES.into_iter().zip(&gates) {
        let spec = writer(disk.path(), gate, profile);
        ids.push(api::start(&mut env.client("user-a").await, spec).await.id);
    }
    let frozen = Frozen::new(disk.path());
    gates.iter().for_each(Gate::open);
    ids.iter().for_each(|id| drop(asleep(&env, id)));
    env.stop_broker();
    let begin = Instant::now();
    let drained = env.drain(Duration::from_secs(1));
    assert!(drained.status.success(), "{}", String::from_utf8_lossy(&drained.stderr));
    assert!(begin.elapsed() < DRAIN, "{:?}", begin.elapsed());
    assert!(ids.iter().all(|id| env.job_dir(id).join("final.json").exists()));
    // The next broker knows them, and waits for nobody either.
    env.start_broker();
    for id in &ids {
        let job = api::job(&mut env.client("user-a").await, id).await;
        assert_eq!((job.state(), job.cause()), (State::Finished, Cause::Stopped), "{job:?}");
        assert!(env.cgroup().job(id).exists(), "something of it is left");
    }
    drop(frozen);
    for id in &ids {
        until("the cgroup is gone", || (!env.cgroup().job(id).exists()).then_some(()));
    }
    env.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_cannot_be_killed_yet_keeps_its_job_its_shim_and_its_uid_until_it_can_be() {
    if !can_freeze() {
        return;
    }
    keeps_all_until_it_can_be_killed(Profile::Private).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_cannot_be_killed_yet_keeps_its_job_in_the_profile_host_too() {
    if !can_freeze() {
        return;
    }
    keeps_all_until_it_can_be_killed(Profile::Host).await;
}

async fn keeps_all_until_it_can_be_killed(profile: Profile) {
    let mut env = Env::builder().config("pool = [70000, 70000]").start();
    let disk = host::disk();
    let mut client = env.client("user-a").await;
    let gates = [env.gate(), env.gate()];
    let pool = |spec: JobSpec| JobSpec { run_as: "pool".into(), ..spec };
    let [one, two] = ["one", "two"].map(|name| disk.path().join(name));
    for dir in [&one, &two] {
        fs::create_dir(dir).unwrap();
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let stopped = api::start(&mut client, writer(&one, &gates[0], profile)).await.id;
    let lost = api::start(&mut client, pool(writer(&two, &gates[1], profile))).await.id;
    let frozen = Frozen::new(disk.path());
    gates.iter().for_each(Gate::open);
    for id in [&stopped, &lost] {
        asleep(&env, id);
    }
    let shims = [&stopped, &lost].map(|id| Pid::from_raw(env.cgroup().shim(id).unwrap()));

    api::stop(&mut client, &stopped, Duration::ZERO).await;
    kill(shims[1], Signal::SIGKILL).unwrap();

    // Its shim lives, and will tell how it ended: nobody takes its place.
    until("it could not be killed", || env.log().contains("cannot be killed yet").then_some(()));
    tokio::time::sleep(SHIMS_WORD).await; // in which a broker that is wrong kills the shim
    kill(shims[0], None).unwrap();
    assert_eq!(api::job(&mut client, &stopped).await.state(), State::Stopping);

    // This one has nobody who could tell: it is lost, and what is left of it is seen to.
    assert_eq!(api::ended(&mut client, &lost).await.state(), State::Lost);
    assert!(!env.cgroup().work(&lost).is_empty());
    let next = pool(api::spec(&["true"]));
    let refused = api::try_start(&mut client, next.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "somebody runs as that uid: {refused}");

    // A job that is removed is still somebody's uid, and so it is for the next broker.
    client.delete_job(DeleteJobRequest { id: lost.clone() }).await.unwrap();
    env.stop_broker();
    env.start_broker();
    let mut client = env.client("user-a").await;
    assert_eq!(api::job(&mut client, &stopped).await.state(), State::Stopping);
    let refused = api::try_start(&mut client, next.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "somebody runs as that uid: {refused}");

    drop(frozen);
    let job = api::ended(&mut client, &stopped).await;
    assert_eq!(
        (job.state(), job.signal, job.ended_by.as_str()),
        (State::Finished, Some(9), "user-a")
    );
    assert!(!job.incomplete);
    assert_eq!(api::output(&mut client, &stopped).await.stdout, b"up\n");
    let free = async || api::try_start(&mut client, next.clone()).await.ok();
    let next = eventually("the uid is free again", free).await.id;
    until("the cgroup is gone", || (!env.cgroup().job(&lost).exists()).then_some(()));
    assert_eq!(api::ended(&mut client, &next).await.exit_code, Some(0));
    env.assert_clean();
}
