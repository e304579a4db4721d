//! Jobs that are over: kept as they were whatever becomes of the broker's memory and index, removed
//! by rule; and nothing is started on a full disk.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::Duration;

use job_api::client::Client;
use job_api::v1::{Job, ListJobsRequest};
use job_tests::finished::{directories, ids, run, run_to};
use job_tests::{Env, api, scaled, until};
use serde_json::Value;
use tonic::Code;
use tonic_types::StatusExt;

/// Of everybody's jobs, running ones too.
async fn list(client: &mut Client, request: ListJobsRequest) -> Vec<Job> {
    client.list_jobs(request).await.unwrap().into_inner().jobs
}

/// Everything that the contract tells of jobs that are over.
async fn told(env: &Env) -> (Vec<Job>, Vec<Value>, Vec<Vec<u8>>) {
    let mut client = env.client("user-a").await;
    let listed = list(&mut client, ListJobsRequest::default()).await;
    let (mut shown, mut logs) = (Vec::new(), Vec::new());
    for job in &listed {
        shown.push(env.jobctl("user-a", &["inspect", &job.id, "-o", "json"]).json());
        logs.push(api::output(&mut client, &job.id).await.stdout);
    }
    (listed, shown, logs)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_job_looks_the_same_from_memory_from_the_index_and_from_its_files() {
    let mut env = Env::start();
    let mut client = env.client("user-a").await;
    let mut spec = api::script("echo out; echo err >&2; exit 3");
    spec.name = "exits".into();
    spec.labels = [("team".to_owned(), "blue".to_owned())].into();
    spec.env = [("TOKEN".to_owned(), "secret".to_owned())].into();
    let exits = api::try_request(&mut client, spec.clone(), "first").await.unwrap().id;
    api::try_request(&mut client, api::spec(&["/no/such/program"]), "second").await.unwrap_err();
    let sleeps = api::start(&mut client, api::spec(&["sleep", "1000"])).await.id;
    env.jobctl("user-a", &["stop", &sleeps]).expect(0);
    api::ended(&mut client, &exits).await;
    until("last records", || {
        let has = |id: &String| env.job_dir(id).join("final.json").exists();
        directories(&env).iter().all(has).then_some(())
    });
    let before = told(&env).await;
    assert_eq!(before.0.len(), 3);

    let index = env.path("state/finished.idx");
    let damage: [fn(&std::path::Path); 4] = [
        |_| (),
        |index| fs::remove_file(index).unwrap(),
        |index| {
            let bytes = fs::read(index).unwrap();
            fs::write(index, &bytes[..bytes.len() - 20]).unwrap();
        },
        |index| fs::write(index, [0; 4096]).unwrap(),
    ];
    for damage in damage {
        env.stop_broker();
        damage(&index);
        env.start_broker();
        assert_eq!(told(&env).await, before);
        let mut client = env.client("user-a").await;
        let again = api::try_request(&mut client, spec.clone(), "first").await.unwrap();
        assert_eq!(again.id, exits, "it does not run twice");
        let other = api::try_request(&mut client, api::spec(&["true"]), "first").await.unwrap_err();
        assert_eq!(
            (other.code(), api::reason(&other)),
            (Code::AlreadyExists, "REQUEST_ID_REUSED".into())
        );
        let failed =
            api::try_request(&mut client, api::spec(&["/no/such/program"]), "second").await;
        assert_eq!(api::reason(&failed.unwrap_err()), "START_FAILED");
    }
    assert_eq!(fs::read_to_string(&index).unwrap().lines().filter(|l| l.contains('{')).count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_filter_finds_jobs_that_ended_under_an_earlier_broker() {
    let mut env = Env::builder().admin("admin").start();
    let mut client = env.client("user-a").await;
    let mut spec = api::spec(&["true"]);
    (spec.name, spec.labels) = ("one".into(), [("team".to_owned(), "blue".to_owned())].into());
    let one = api::start(&mut client, spec).await.id;
    let two = run(&env, "user-b", "exit 0");
    api::ended(&mut client, &one).await;
    env.restart_broker();
    let mut admin = env.client("admin").await;
    let running = env.jobctl("user-a", &["start", "--", "sleep", "1000"]).id();

    let mut found = async |request| -> Vec<String> {
        list(&mut admin, request).await.into_iter().map(|job| job.id).collect()
    };
    let any = ListJobsRequest::default;
    assert_eq!(found(any()).await, [&*running, &*two, &*one]);
    assert_eq!(found(ListJobsRequest { owner: "user-b".into(), ..any() }).await, [&*two]);
    assert_eq!(found(ListJobsRequest { selector: "one".into(), ..any() }).await, [&*one]);
    assert_eq!(found(ListJobsRequest { selector: two[..20].into(), ..any() }).await, [&*two]);
    let labels = [("team".to_owned(), "blue".to_owned())].into();
    assert_eq!(found(ListJobsRequest { labels, ..any() }).await, [&*one]);
    assert_eq!(found(ListJobsRequest { states: vec![2], ..any() }).await, [&*running]);
    assert_eq!(found(ListJobsRequest { states: vec![4], ..any() }).await, [&*two, &*one]);
    let page = ListJobsRequest { page_size: 1, page_token: running.clone(), ..any() };
    assert_eq!(found(page).await, [&*two]);
    let now = Some(std::time::SystemTime::now().into());
    let old = ListJobsRequest { ended_before: now, ..any() };
    assert_eq!(found(old).await, [&*two, &*one]);

    env.jobctl("user-a", &["prune", "--older-than", "0s"]).expect(0);
    assert_eq!(directories(&env), [running, two].into(), "an owner prunes its own");
}

#[test]
fn the_oldest_go_when_there_are_more_than_the_rules_allow_and_running_ones_stay() {
    let mut env = Env::builder().retention("count = 2").start();
    let running = env.jobctl("user-a", &["start", "--", "sleep", "1000"]).id();
    let ended: Vec<_> = (0..4).map(|n| run(&env, "user-a", &format!("exit 0 # {n}"))).collect();
    let left: BTreeSet<_> = [&running, &ended[2], &ended[3]].map(Clone::clone).into();
    until("two are left", || (directories(&env) == left).then_some(()));
    assert_eq!(ids(&env, "user-a"), left);
    until("the log to tell of it", || env.log().contains("retention.count").then_some(()));
    // The next broker finds the index of all and the directories of some.
    env.restart_broker();
    assert_eq!(ids(&env, "user-a"), left);
    env.set_retention(&["age = \"1ms\""]);
    env.restart_broker();
    until("all that has ended is gone", || (directories(&env).len() == 1).then_some(()));
    assert_eq!(ids(&env, "user-a"), [running].into());
}

#[test]
fn a_reload_puts_other_rules_in_force() {
    let mut env = Env::start();
    let ended: Vec<_> = (0..3).map(|_| run(&env, "user-a", "echo out")).collect();
    env.set_retention(&["count = 1"]);
    env.reload_broker();
    until("one is left", || (directories(&env).len() == 1).then_some(()));
    env.set_retention(&["max_output = 1"]);
    env.reload_broker();
    until("the second reload", || (env.log().matches(" reloaded").count() == 2).then_some(()));
    let refused = env.jobctl("user-a", &["start", "--", "true"]);
    assert!(refused.err().contains("retention.max_output"), "{}", refused.err());
    env.set_retention(&[]);
    env.reload_broker();
    until("the third reload", || (env.log().matches(" reloaded").count() == 3).then_some(()));
    let other = run(&env, "user-a", "echo out");
    assert_eq!(ids(&env, "user-a"), [ended[2].clone(), other].into(), "no rule, both stay");
    assert!(!env.log().contains("need a restart"), "{}", env.log());
}

#[test]
fn output_and_owners_have_limits_of_their_own() {
    let mut env = Env::builder().retention("bytes = 25000").start();
    let text = "head -c 10000 /dev/zero";
    let ended: Vec<_> = (0..3).map(|_| run(&env, "user-a", text)).collect();
    until("one is gone", || (directories(&env).len() == 2).then_some(()));
    assert!(!directories(&env).contains(&ended[0]));
    env.set_retention(&["count_per_owner = 1"]);
    env.restart_broker();
    let others = run(&env, "user-b", text);
    until("one of each", || (directories(&env).len() == 2).then_some(()));
    assert_eq!(ids(&env, "user-a"), [ended[2].clone()].into());
    assert_eq!(ids(&env, "user-b"), [others].into());
}

/// It was started before all others, and is the last to end: how it ended is seen by whoever waits.
#[test]
fn a_long_job_is_not_removed_at_its_end_for_having_been_started_first() {
    let env = Env::builder().retention("count_per_owner = 3").start();
    let gate = env.gate();
    let text = format!("{}; echo out; exit 7", gate.wait());
    let long = env.jobctl("user-a", &["start", "--", "sh", "-c", &text]).id();
    let short: Vec<_> = (0..3).map(|_| run(&env, "user-a", "exit 0")).collect();
    assert_eq!(directories(&env).len(), 4, "a running job is not counted");
    gate.open();
    let left: BTreeSet<_> = [&long, &short[1], &short[2]].map(Clone::clone).into();
    until("the one that ended first is gone", || (directories(&env) == left).then_some(()));
    env.jobctl("user-a", &["wait", &long]).expect(7);
    assert_eq!(env.jobctl("user-a", &["logs", &long]).out(), "out\n");
}

#[test]
fn the_job_that_ended_last_stays_however_much_it_has_written() {
    let mut env = Env::builder().retention("bytes = 100").start();
    let text = "head -c 10000 /dev/zero; exit 3";
    let one = run_to(&env, "user-a", text, 3);
    let two = run_to(&env, "user-a", text, 3);
    until("the first is gone", || (directories(&env) == [two.clone()].into()).then_some(()));
    let said = format!("removed job={one} rule=retention.bytes");
    until("the log to tell of it", || env.log().contains(&said).then_some(()));
    env.jobctl("user-a", &["wait", &two]).expect(3);
    assert_eq!(env.jobctl("user-a", &["logs", &two]).stdout.len(), 10_000);
    // Where nothing could be started beside it, it goes after all.
    env.set_retention(&["bytes = 100", "max_output = 5000"]);
    env.restart_broker();
    env.jobctl("user-a", &["wait", &two]).expect(3);
    let three = run(&env, "user-b", "exit 0");
    assert_eq!(directories(&env), [three].into());
}

#[test]
fn a_removal_that_a_crash_cut_short_is_finished_by_the_next_broker() {
    let mut env = Env::start();
    let (half, whole) = (run(&env, "user-a", "echo half"), run(&env, "user-a", "echo whole"));
    env.kill_broker();
    let doomed = env.path("state/jobs").join(format!(".removed-{half}"));
    fs::rename(env.job_dir(&half), &doomed).unwrap();
    fs::remove_file(doomed.join("spec.json")).unwrap();
    env.start_broker();
    assert_eq!(ids(&env, "user-a"), [whole.clone()].into());
    assert_eq!(directories(&env), [whole.clone()].into());
    assert_eq!(env.jobctl("user-a", &["logs", &whole]).out(), "whole\n");
    env.jobctl("user-a", &["status", &half]).expect(1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_broker_killed_while_it_removes_leaves_whole_jobs_or_none() {
    let mut env = Env::start();
    let mut client = env.client("user-a").await;
    for _ in 0..scaled(60, 20) {
        let job = api::start(&mut client, api::spec(&["echo", "x"])).await;
        api::ended(&mut client, &job.id).await;
    }
    env.stop_broker();
    env.set_retention(&["age = \"1ms\""]);
    for turn in 0..5 {
        env.start_broker();
        thread::sleep(Duration::from_micros(700 * turn)); // somewhere in the removals
        env.kill_broker();
        for name in directories(&env).iter().filter(|name| !name.starts_with('.')) {
            for file in ["spec.json", "final.json", "stdout.log", "exit"] {
                assert!(env.job_dir(name).join(file).exists(), "{file} of {name}");
            }
        }
    }
    env.start_broker();
    until("all are gone", || directories(&env).is_empty().then_some(()));
    assert_eq!(ids(&env, "user-a"), BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn nothing_is_started_below_the_watermark_and_a_repetition_is_answered() {
    let mut env = Env::start();
    let mut client = env.client("user-a").await;
    let first = api::try_request(&mut client, api::spec(&["true"]), "r").await.unwrap();
    api::ended(&mut client, &first.id).await;
    env.set_retention(&["min_free = \"1000000T\""]); // no disk is as large
    env.restart_broker();
    let mut client = env.client("user-a").await;
    let refused = api::try_start(&mut client, api::spec(&["true"])).await.unwrap_err();
    assert_eq!(
        (refused.code(), api::reason(&refused)),
        (Code::ResourceExhausted, "DISK_SPACE".into())
    );
    let numbers = refused.get_details_error_info().unwrap().metadata;
    let [free, needed] = ["free", "needed"].map(|key| numbers[key].parse::<u64>().unwrap());
    assert!(free < needed, "{numbers:?}");
    assert_eq!(directories(&env).len(), 1, "nothing of it was made");
    let again = api::try_request(&mut client, api::spec(&["true"]), "r").await.unwrap();
    assert_eq!(again.id, first.id);
    let refused = env.jobctl("user-a", &["start", "--", "true"]);
    assert!(refused.expect(125).err().contains("retention.min_free"), "{}", refused.err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn past_the_quota_of_output_nothing_is_started_until_some_is_removed() {
    let env = Env::builder().retention("max_output = 15000").start();
    let mut client = env.client("user-a").await;
    let text = "head -c 10000 /dev/zero";
    let ended = run(&env, "user-a", text);
    // Running jobs count, too.
    let running = api::start(&mut client, api::script(&format!("{text}; sleep 1000"))).await.id;
    until("its output", || {
        let log = fs::metadata(env.job_dir(&running).join("stdout.log"));
        log.is_ok_and(|log| log.len() == 10_000).then_some(())
    });
    // What live jobs keep is measured once a second.
    let refused = loop {
        match api::try_start(&mut client, api::spec(&["true"])).await {
            Ok(job) => drop(api::ended(&mut client, &job.id).await),
            Err(refused) => break refused,
        }
    };
    assert_eq!(api::reason(&refused), "OUTPUT_QUOTA");
    let numbers = refused.get_details_error_info().unwrap().metadata;
    let files = ["stdout.log", "stderr.log", "output.idx"];
    let files = [&ended, &running].map(|id| files.map(|name| env.job_dir(id).join(name)));
    let lengths = files.iter().flatten().map(|file| fs::metadata(file).unwrap().len());
    let kept = lengths.sum::<u64>();
    assert!(kept > 20_000, "each read has its entry in the index");
    assert_eq!((&numbers["kept"], &*numbers["max"]), (&kept.to_string(), "15000"));
    env.jobctl("user-a", &["rm", &ended]).expect(0);
    api::start(&mut client, api::spec(&["true"])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_the_rules_would_remove_does_not_stand_in_the_way_of_a_start() {
    let env = Env::builder().retention("max_output = 15000").retention("bytes = 12000").start();
    let mut client = env.client("user-a").await;
    for _ in 0..4 {
        let spec = api::script("head -c 10000 /dev/zero");
        let job = api::start(&mut client, spec).await;
        api::ended(&mut client, &job.id).await;
    }
}
