//! Processes that sleep in the kernel and cannot be killed there, as on a disk that is frozen.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use job_api::v1::job::State;
use job_api::v1::{Cause, JobSpec};
use job_tests::host::{self, Need};
use job_tests::{Env, Gate, api, eventually, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::Code;

/// Without a pid namespace: process 1 of one cannot end before all that is in it has.
const HOST: &str = "[isolation]\ndefault = \"host\"\nminimum = \"host\"\n";

/// Longer than the broker gives the shim of a job whose processes are all gone.
const SHIMS_WORD: Duration = Duration::from_secs(4);

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

/// A host that goes down does not wait for a disk that does not answer, and the jobs are on record.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_drain_ends_and_records_what_cannot_be_killed() {
    if !can_freeze() {
        return;
    }
    let mut env = Env::builder().sections(HOST).start();
    let (disk, gate) = (host::disk(), env.gate());
    let text = format!("echo up; {}; echo x >{}", gate.wait(), disk.path().join("f").display());
    let id = api::start(&mut env.client("user-a").await, api::script(&text)).await.id;
    let frozen = Frozen::new(disk.path());
    gate.open();
    asleep(&env, &id);
    env.stop_broker();
    let drained = env.drain(Duration::from_secs(1));
    assert!(drained.status.success(), "{}", String::from_utf8_lossy(&drained.stderr));
    assert!(env.job_dir(&id).join("final.json").exists());
    drop(frozen);
    env.start_broker();
    let job = api::job(&mut env.client("user-a").await, &id).await;
    assert_eq!((job.state(), job.cause()), (State::Finished, Cause::Stopped), "{job:?}");
    env.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_cannot_be_killed_yet_keeps_its_job_its_shim_and_its_uid_until_it_can_be() {
    if !can_freeze() {
        return;
    }
    let env = Env::builder().sections(HOST).config("pool = [70000, 70000]").start();
    let disk = host::disk();
    let mut client = env.client("user-a").await;
    let writer = |gate: &Gate, name: &str| {
        let file = disk.path().join(name);
        api::script(&format!("echo up; {}; echo x >{}", gate.wait(), file.display()))
    };
    let gates = [env.gate(), env.gate()];
    let stopped = api::start(&mut client, writer(&gates[0], "stopped")).await.id;
    let pool = |spec: JobSpec| JobSpec { run_as: "pool".into(), ..spec };
    let lost = api::start(&mut client, pool(writer(&gates[1], "lost"))).await.id;
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
