//! A request that is made twice is one job, whatever has become of the configuration since, and
//! whichever broker has recorded it.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::time::Duration;

use job_api::v1::stream_output_response::Kind;
use job_api::v1::{JobSpec, StartJobRequest};
use job_broker::decisions::older_digest;
use job_broker::decisions::records::{self, SpecRecord};
use job_tests::refusal::violation;
use job_tests::{Env, api, until};
use tonic::Code;

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_repetition_is_the_first_call_s_job_whatever_the_configuration_says_by_now() {
    let mut env = Env::builder()
        .config("run_as = [\"nobody\", \"daemon\"]")
        .sections("[limits.default]\ntime = \"1h\"\n")
        .start();
    let mut client = env.client("user-a").await;
    let modest = api::spec(&["sleep", "1000"]);
    let bold = JobSpec {
        run_as: "daemon".into(),
        time_limit: Some(api::duration(DAY)),
        env: [("B".to_owned(), "2".to_owned()), ("A".to_owned(), "1".to_owned())].into(),
        ..api::spec(&["true"])
    };
    let first = api::try_request(&mut client, modest.clone(), "modest").await.unwrap().id;
    let second = api::try_request(&mut client, bold.clone(), "bold").await.unwrap().id;
    api::ended(&mut client, &second).await;

    // Another default, and a ceiling that the job would not be let past today.
    env.set_sections("[limits.default]\ntime = \"2m\"\n[limits.max]\ntime = \"1h\"\n");
    env.reload_broker();
    until("the reload", || env.log().contains("reloaded").then_some(()));
    let refused = api::try_request(&mut client, bold.clone(), "new").await.unwrap_err();
    assert_eq!(violation(&refused).0, "spec.time_limit");
    assert_eq!(api::try_request(&mut client, modest.clone(), "modest").await.unwrap().id, first);
    assert_eq!(api::try_request(&mut client, bold.clone(), "bold").await.unwrap().id, second);

    // An account that no job may run as any more, and another broker.
    env.set_config(&["run_as = [\"nobody\"]"]);
    env.restart_broker();
    let mut client = env.client("user-a").await;
    let daemon = JobSpec { time_limit: None, ..bold.clone() };
    let refused = api::try_request(&mut client, daemon, "newer").await.unwrap_err();
    assert_eq!(violation(&refused).0, "spec.run_as");
    assert_eq!(api::try_request(&mut client, modest.clone(), "modest").await.unwrap().id, first);
    assert_eq!(api::try_request(&mut client, bold.clone(), "bold").await.unwrap().id, second);

    // What is another request stays one, also where it is one that would be refused.
    for other in [JobSpec { stdin: true, ..modest }, JobSpec { argv: Vec::new(), ..bold }] {
        let refused = api::try_request(&mut client, other, "bold").await.unwrap_err();
        assert_eq!(refused.code(), Code::AlreadyExists, "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_request_that_an_older_broker_has_recorded_is_known_again() {
    let mut env = Env::start();
    let mut client = env.client("user-a").await;
    let with_env = |argv: &[&str]| JobSpec {
        env: [("TOKEN".to_owned(), "secret".to_owned())].into(),
        ..api::spec(argv)
    };
    let (is_running, ended) = (with_env(&["sleep", "1000"]), with_env(&["true"]));
    let first = api::try_request(&mut client, is_running.clone(), "lives").await.unwrap().id;
    let second = api::try_request(&mut client, ended.clone(), "ended").await.unwrap().id;
    api::ended(&mut client, &second).await;
    env.stop_broker();
    for id in [&first, &second] {
        let dir = env.job_dir(id);
        let mut record: SpecRecord = records::load(&dir, records::SPEC).unwrap().unwrap();
        assert!(record.request_digest.starts_with("2:"), "{}", record.request_digest);
        record.spec.env.insert("TOKEN".into(), "secret".into());
        record.request_digest = older_digest(&record.spec);
        records::save(&dir, records::SPEC, &record).unwrap();
    }
    fs::remove_file(env.path("state/finished.idx")).unwrap();
    env.start_broker();
    let mut client = env.client("user-a").await;
    assert_eq!(api::try_request(&mut client, is_running.clone(), "lives").await.unwrap().id, first);
    assert_eq!(api::try_request(&mut client, ended, "ended").await.unwrap().id, second);
    let other = JobSpec { env: [("TOKEN".to_owned(), "x".to_owned())].into(), ..is_running };
    for id in ["lives", "ended"] {
        let refused = api::try_request(&mut client, other.clone(), id).await.unwrap_err();
        assert_eq!(refused.code(), Code::AlreadyExists, "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn one_call_starts_a_job_and_gives_its_output_and_its_repetition_gives_the_same() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let run = |argv: &[&str]| StartJobRequest {
        spec: Some(api::spec(argv)),
        request_id: "one flight".into(),
        ..Default::default()
    };
    let mut ids = Vec::new();
    for _ in 0..2 {
        let call = client.run_job(run(&["sh", "-c", "echo out; echo err >&2; exit 3"])).await;
        let mut stream = call.unwrap().into_inner();
        let first = stream.message().await.unwrap().unwrap().kind;
        let Some(Kind::Started(job)) = first else { panic!("{first:?}") };
        let output = api::whole(&mut stream).await.unwrap();
        assert_eq!((&*output.stdout, &*output.stderr), (&b"out\n"[..], &b"err\n"[..]));
        assert_eq!((&output.job.id, output.job.exit_code), (&job.id, Some(3)));
        ids.push(job.id);
    }
    assert_eq!(ids[0], ids[1]);
    let other = client.run_job(run(&["true"])).await.unwrap_err();
    assert_eq!((other.code(), &*api::reason(&other)), (Code::AlreadyExists, "REQUEST_ID_REUSED"));
    let unknown = StartJobRequest { request_id: String::new(), ..run(&["/no/such/program"]) };
    let refused = client.run_job(unknown).await.unwrap_err();
    assert_eq!(api::reason(&refused), "START_FAILED", "{refused}");
}
