//! A job may have 1 MiB of arguments: the broker's memory and its lists have the beginning, and
//! nothing of the rest is lost.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::time::{Duration, Instant};

use job_api::client::Client;
use job_api::v1::{Job, JobSpec, ListJobsRequest, UpdateJobRequest};
use job_tests::attack::form;
use job_tests::{Env, api};

/// Bytes of a short form.
const KEPT: usize = 1024;

async fn listed(client: &mut Client) -> Vec<Job> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListJobsRequest { page_token, page_size: 1000, ..Default::default() };
        let page = client.list_jobs(request).await.unwrap().into_inner();
        all.extend(page.jobs);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return all;
        }
    }
}

/// The script, and 1,000,000 bytes that it does not look at.
fn long(script: &str) -> JobSpec {
    let mut spec = api::script(script);
    spec.argv.extend((0..10).map(|n| n.to_string().repeat(100_000)));
    spec
}

fn assert_short(job: &Job, asked: &JobSpec) {
    let spec = job.spec.as_ref().unwrap();
    let shown: usize = spec.argv.iter().map(String::len).sum();
    assert!((KEPT / 2..=KEPT).contains(&shown), "{shown}");
    assert_eq!(spec.argv[..3], asked.argv[..3]);
    assert!(asked.argv[3].starts_with(&spec.argv[3]));
    assert_eq!((job.argv_count, job.env_count), (13, 500));
    assert_eq!(job.argv_bytes, asked.argv.iter().map(|arg| arg.len() as u64).sum::<u64>());
    assert!((1..500).contains(&spec.env.len()), "{}", spec.env.len());
}

async fn assert_whole(client: &mut Client, id: &str, asked: &JobSpec) {
    let job = api::job(client, id).await;
    let spec = job.spec.unwrap();
    assert!(spec.argv == asked.argv, "{} arguments", spec.argv.len());
    assert!(spec.env.keys().eq(asked.env.keys()), "{} variables", spec.env.len());
    assert!(spec.env.values().all(String::is_empty), "values are never given back");
    assert_eq!((job.argv_count, job.argv_bytes, job.env_count), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn long_arguments_are_shown_short_in_lists_and_whole_by_get_and_are_never_lost() {
    let mut env = Env::start();
    let mut client = env.client("user-a").await;
    let gate = env.gate();
    let mut spec = long(&gate.wait());
    spec.env = (0..500).map(|n| (format!("VARIABLE_{n}"), "x".to_owned())).collect();
    let started = api::start(&mut client, spec.clone()).await;
    assert_short(&started, &spec);
    let id = started.id;
    assert_short(&listed(&mut client).await[0], &spec);
    assert_whole(&mut client, &id, &spec).await;

    // A change of limits writes the record anew.
    let time_limit = Some(api::duration(Duration::from_secs(3600)));
    api::updated(
        &mut client,
        UpdateJobRequest { id: id.clone(), time_limit, ..Default::default() },
    )
    .await;
    assert_whole(&mut client, &id, &spec).await;
    env.restart_broker();
    let mut client = env.client("user-a").await;
    assert_short(&listed(&mut client).await[0], &spec);
    assert_whole(&mut client, &id, &spec).await;
    let shown = env.jobctl("user-a", &["ps", "-a"]);
    assert!(shown.out().contains("… (10000") && shown.out().len() < 4 * KEPT, "{}", shown.out());
    let shown = env.jobctl("user-a", &["inspect", &id]);
    assert!(shown.out().contains(&spec.argv[12]));

    gate.open();
    api::ended(&mut client, &id).await;
    assert_short(&listed(&mut client).await[0], &spec);
    assert_whole(&mut client, &id, &spec).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_arguments_of_jobs_that_live_are_not_kept_in_memory() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let count = form(40, 300);
    let spec = long("exec sleep 1000");
    api::start(&mut client, spec.clone()).await; // so that what every start takes is there before
    let before = resident(&env);
    for _ in 1..count {
        api::start(&mut client, spec.clone()).await;
    }
    let (after, begin) = (resident(&env), Instant::now());
    let jobs = listed(&mut client).await;
    let took = begin.elapsed();
    println!("{count} jobs: {before} KiB, then {after} KiB; listed in {took:?}");
    assert_eq!(jobs.len(), count);
    // 1 MB each before. What is left is the job itself, and what the allocator holds of the last starts.
    let own = count as u64 * 64 + 12 * 1024;
    assert!(after < before + own, "{count} jobs: {before} KiB, then {after} KiB");
}

/// Of the broker, KiB.
fn resident(env: &Env) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", env.broker().pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
