//! Records that cannot be read, and what is no job: out of the way, and the rest is served.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;

use job_api::client::Client;
use job_api::v1::{GetServerInfoRequest, Job, JobSpec, StartJobRequest};
use job_tests::{Env, api, until};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

async fn request(client: &mut Client, spec: &JobSpec, id: &str) -> Result<Job, Status> {
    let request = StartJobRequest { spec: Some(spec.clone()), request_id: id.into() };
    Ok(client.start_job(request).await?.into_inner().job.unwrap())
}

async fn quarantined(env: &Env) -> Vec<(String, String)> {
    let mut admin = env.client("admin").await;
    let info = admin.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
    info.quarantined.into_iter().map(|job| (job.id, job.reason)).collect()
}

fn uid(env: &Env, id: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", env.cgroup().work(id)[0])).unwrap();
    status.lines().find(|line| line.starts_with("Uid:")).unwrap().to_owned()
}

/// As after a crash of a broker whose package has been replaced by an older one all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_job_whose_records_are_of_a_later_version_runs_on_and_nobody_takes_what_is_its_own() {
    let mut env = Env::builder().admin("admin").start();
    let gate = env.gate();
    let text = format!("echo up; {}; echo done; exit 3", gate.wait());
    let spec = JobSpec { run_as: "pool".into(), ..api::script(&text) };
    let mut client = env.client("user-a").await;
    let id = request(&mut client, &spec, "once").await.unwrap().id;
    until("it is up", || env.stdout_log(&id).contains("up").then_some(()));
    let own = uid(&env, &id);
    env.kill_broker();
    let path = env.job_dir(&id).join("spec.json");
    let record = fs::read(&path).unwrap();
    let mut later: serde_json::Value = serde_json::from_slice(&record).unwrap();
    later["format"] = 99.into();
    later["account"] = "of another kind".into();
    fs::write(&path, later.to_string()).unwrap();
    env.start_broker();

    let found = quarantined(&env).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].0 == id && found[0].1.contains("still runs"), "{found:?}");
    let mut client = env.client("user-a").await;
    let refused = request(&mut client, &spec, "once").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert_eq!(refused.get_details_error_info().unwrap().reason, "REQUEST_QUARANTINED");
    let sleeper = JobSpec { run_as: "pool".into(), ..api::spec(&["sleep", "1000"]) };
    let other = api::start(&mut client, sleeper).await.id;
    assert_ne!(uid(&env, &other), own);

    env.kill_broker();
    fs::write(&path, record).unwrap();
    env.start_broker();
    assert_eq!(quarantined(&env).await, []);
    let mut client = env.client("user-a").await;
    assert_eq!(request(&mut client, &spec, "once").await.unwrap().id, id);
    gate.open();
    let output = api::output(&mut client, &id).await;
    assert_eq!((output.job.exit_code, output.stdout.as_slice()), (Some(3), &b"up\ndone\n"[..]));
    api::stop(&mut client, &other, std::time::Duration::ZERO).await;
    env.assert_clean();
}

/// A remnant of a removal that no broker can finish, and a cgroup that none could remove.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn remnants_of_jobs_that_are_gone_hinder_nobody() {
    let mut env = Env::builder().admin("admin").start();
    let mut client = env.client("user-a").await;
    let kept = api::start(&mut client, api::spec(&["echo", "kept"])).await.id;
    api::ended(&mut client, &kept).await;
    env.kill_broker();
    fs::write(env.path("state/jobs/.removed-x"), "no directory").unwrap();
    let gone = env.cgroup().job("01900000-0000-7000-8000-000000000001");
    fs::create_dir_all(gone.join("work")).unwrap();
    env.start_broker();

    let mut client = env.client("user-a").await;
    assert_eq!(api::output(&mut client, &kept).await.stdout, b"kept\n");
    assert_eq!(env.jobctl("user-a", &["ps", "-a", "-q"]).out().trim(), kept);
    let found = quarantined(&env).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].0 == ".removed-x" && found[0].1.contains("cannot be removed"), "{found:?}");
    env.assert_clean();
}
