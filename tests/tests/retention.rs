//! Jobs that are over: kept as they were whatever becomes of the broker's memory and index, removed
//! by rule, out of the way when they cannot be read; and nothing is started on a full disk.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::Duration;

use job_api::client::Client;
use job_api::v1::{Job, JobSpec, ListJobsRequest, StartJobRequest};
use job_tests::{Env, api, scaled, until};
use serde_json::Value;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Of everybody's jobs, running ones too.
async fn list(client: &mut Client, request: ListJobsRequest) -> Vec<Job> {
    client.list_jobs(request).await.unwrap().into_inner().jobs
}

async fn try_request(client: &mut Client, spec: JobSpec, id: &str) -> Result<Job, Status> {
    let request = StartJobRequest { spec: Some(spec), request_id: id.into() };
    Ok(client.start_job(request).await?.into_inner().job.unwrap())
}

/// The ids of a user's jobs.
fn ids(env: &Env, user: &str) -> BTreeSet<String> {
    let out = env.jobctl(user, &["ps", "-a", "-q"]);
    out.expect(0).out().split_whitespace().map(str::to_owned).collect()
}

fn directories(env: &Env) -> BTreeSet<String> {
    let entries = fs::read_dir(env.path("state/jobs")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Runs a job to its end, as far as its last record.
fn run(env: &Env, user: &str, text: &str) -> String {
    run_to(env, user, text, 0)
}

/// The same of one that exits with this.
fn run_to(env: &Env, user: &str, text: &str, code: i32) -> String {
    let id = env.jobctl(user, &["start", "--", "sh", "-c", text]).id();
    env.jobctl(user, &["-q", "wait", "--until", "end", &id]).expect(code);
    until("its last record", || env.job_dir(&id).join("final.json").exists().then_some(()));
    id
}

fn quarantined(env: &Env) -> Vec<(String, String)> {
    let info = env.jobctl("admin", &["info", "-o", "json"]).json();
    let all = info["quarantined"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    all.iter().map(|job| (text(&job["id"]), text(&job["reason"]))).collect()
}

fn until_quarantined(env: &Env, count: usize) -> Vec<(String, String)> {
    until("quarantine", || Some(quarantined(env)).filter(|all| all.len() == count))
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
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
    let exits = try_request(&mut client, spec.clone(), "first").await.unwrap().id;
    try_request(&mut client, api::spec(&["/no/such/program"]), "second").await.unwrap_err();
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
        let again = try_request(&mut client, spec.clone(), "first").await.unwrap();
        assert_eq!(again.id, exits, "it does not run twice");
        let other = try_request(&mut client, api::spec(&["true"]), "first").await.unwrap_err();
        assert_eq!(
            (other.code(), reason(&other)),
            (Code::AlreadyExists, "REQUEST_ID_REUSED".into())
        );
        let failed = try_request(&mut client, api::spec(&["/no/such/program"]), "second").await;
        assert_eq!(reason(&failed.unwrap_err()), "START_FAILED");
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
    let first = try_request(&mut client, api::spec(&["true"]), "r").await.unwrap();
    api::ended(&mut client, &first.id).await;
    env.set_retention(&["min_free = \"1000000T\""]); // no disk is as large
    env.restart_broker();
    let mut client = env.client("user-a").await;
    let refused = api::try_start(&mut client, api::spec(&["true"])).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::ResourceExhausted, "DISK_SPACE".into()));
    let numbers = refused.get_details_error_info().unwrap().metadata;
    let [free, needed] = ["free", "needed"].map(|key| numbers[key].parse::<u64>().unwrap());
    assert!(free < needed, "{numbers:?}");
    assert_eq!(directories(&env).len(), 1, "nothing of it was made");
    let again = try_request(&mut client, api::spec(&["true"]), "r").await.unwrap();
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
    assert_eq!(reason(&refused), "OUTPUT_QUOTA");
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

/// FAULTS 22, of a record that breaks while the broker runs.
#[test]
fn a_record_that_is_damaged_meanwhile_is_found_when_it_is_asked_for() {
    let env = Env::builder().admin("admin").start();
    let (one, two) = (run(&env, "user-a", "echo one"), run(&env, "user-a", "echo two"));
    fs::write(env.job_dir(&one).join("final.json"), "{").unwrap();
    assert_eq!(ids(&env, "user-a"), [two].into(), "the rest is listed");
    let quarantined = until_quarantined(&env, 1);
    assert_eq!(quarantined[0].0, one);
    assert!(quarantined[0].1.contains("final.json"), "{quarantined:?}");
    assert_eq!(
        fs::read(env.path("state/quarantine").join(&one).join("stdout.log")).unwrap(),
        b"one\n"
    );
}

/// Not damaged: the disk cannot read it, or a later version has written it. Nobody else's list breaks.
#[test]
fn a_record_that_cannot_be_read_now_is_missing_from_lists_and_nothing_else_is() {
    let env = Env::builder().admin("admin").start();
    let [one, two, three] = [1, 2, 3].map(|n| run(&env, "user-a", &format!("echo {n}")));
    let last = |id: &str| env.job_dir(id).join("final.json");
    let aside = env.path("final.json");
    fs::rename(last(&one), &aside).unwrap();
    fs::create_dir(last(&one)).unwrap(); // read(2) fails with EISDIR
    let whole = fs::read(last(&two)).unwrap();
    fs::write(last(&two), r#"{"format":2}"#).unwrap();

    for user in ["user-a", "admin", "user-a"] {
        assert_eq!(ids(&env, user), [three.clone()].into(), "the rest is listed for {user}");
    }
    let told = quarantined(&env);
    assert_eq!(told.len(), 2, "{told:?}");
    for (id, reason) in [(&one, "final.json: Is a directory"), (&two, "final.json: of format 2")] {
        assert!(told.iter().any(|(left, why)| left == id && why.contains(reason)), "{told:?}");
        let asked = env.jobctl("user-a", &["status", id]);
        assert!(asked.expect(1).err().contains(reason), "{}", asked.err());
        let stranger = env.jobctl("user-b", &["status", id]).expect(1).err();
        assert!(!stranger.contains(reason), "{stranger}");
        let says = |line: &&str| line.contains(id.as_str()) && line.contains(reason);
        let said = || env.log().lines().filter(says).count();
        until("the log to tell of it", || (said() > 0).then_some(()));
        assert_eq!(said(), 1, "once: {}", env.log());
    }
    assert_eq!(directories(&env).len(), 3, "they stay where they are");

    fs::remove_dir(last(&one)).unwrap();
    fs::rename(&aside, last(&one)).unwrap();
    fs::write(last(&two), whole).unwrap();
    assert_eq!(ids(&env, "user-a"), [one, two, three].into());
    assert_eq!(quarantined(&env), [], "what can be read again is told of no more");
}

/// FAULTS 22, with the index gone as well.
#[test]
fn without_an_index_damaged_records_are_found_all_the_same() {
    let mut env = Env::builder().admin("admin").start();
    let jobs: Vec<_> = (0..3).map(|_| run(&env, "user-a", "echo x")).collect();
    env.kill_broker();
    fs::remove_file(env.path("state/finished.idx")).unwrap();
    fs::write(env.job_dir(&jobs[0]).join("spec.json"), "").unwrap();
    fs::remove_file(env.job_dir(&jobs[1]).join("spec.json")).unwrap();
    env.start_broker();
    let quarantined = until_quarantined(&env, 2);
    assert!(quarantined.iter().all(|(id, _)| jobs[..2].contains(id)), "{quarantined:?}");
    assert_eq!(ids(&env, "user-a"), [jobs[2].clone()].into());
    // And stays found.
    env.restart_broker();
    assert_eq!(until_quarantined(&env, 2), quarantined);
}

/// FAULTS 22, of a job that runs.
#[test]
fn a_running_job_with_a_corrupt_spec_runs_on_and_is_moved_away_when_it_has_ended() {
    let mut env = Env::builder().admin("admin").start();
    let gate = env.gate();
    let text = format!("echo up; {}; echo done", gate.wait());
    let id = env.jobctl("user-a", &["start", "--user", "pool", "--", "sh", "-c", &text]).id();
    env.kill_broker();
    fs::write(env.job_dir(&id).join("spec.json"), "{").unwrap();
    env.start_broker();
    let quarantined = until_quarantined(&env, 1);
    assert_eq!(quarantined[0].0, id);
    assert!(quarantined[0].1.contains("still runs"), "{quarantined:?}");
    assert!(!env.cgroup().work(&id).is_empty() && env.cgroup().shim(&id).is_some());
    env.jobctl("user-a", &["status", &id]).expect(1);
    // Its uid is nobody else's.
    let own = uid(env.cgroup().work(&id)[0]);
    let other = env.jobctl("user-a", &["start", "--user", "pool", "--", "sleep", "1000"]).id();
    assert_ne!(uid(env.cgroup().work(&other)[0]), own);
    env.jobctl("user-a", &["rm", "--force", &other]).expect(0);

    gate.open();
    let aside = env.path("state/quarantine").join(&id);
    until("it is moved", || aside.exists().then_some(()));
    assert_eq!(fs::read(aside.join("stdout.log")).unwrap(), b"up\ndone\n");
    let quarantined = until_quarantined(&env, 1);
    assert!(!quarantined[0].1.contains("still runs"), "{quarantined:?}");
    env.assert_clean();
}

/// What a crash of the host leaves of a start that had not come to GO: nobody was told of such a job.
#[test]
fn a_start_that_a_crash_cut_short_is_swept_without_a_word() {
    let mut env = Env::builder().admin("admin").start();
    let whole = run(&env, "user-a", "echo whole");
    let spec = fs::read(env.job_dir(&whole).join("spec.json")).unwrap();
    env.kill_broker();
    type Files<'a> = &'a [(&'a str, &'a [u8])];
    let torn: [(&str, Files<'_>); 5] = [
        ("1", &[]),
        ("2", &[(".spec.json.new", &spec[..20])]),
        ("3", &[("spec.json", b"")]),
        ("4", &[("spec.json", &spec[..200]), ("spawn.json", b""), ("stdout.log", b"")]),
        ("5", &[("spec.json", &[0; 400]), ("exit", &[0; 512]), ("output.idx", b"")]),
    ];
    for (n, files) in torn {
        let dir = env.job_dir(&format!("01900000-0000-7000-8000-00000000000{n}"));
        fs::create_dir(&dir).unwrap();
        files.iter().for_each(|(name, bytes)| fs::write(dir.join(name), bytes).unwrap());
    }
    env.start_broker();
    assert_eq!(ids(&env, "user-a"), [whole.clone()].into());
    assert_eq!(directories(&env), [whole].into());
    assert_eq!(quarantined(&env), []);
    assert!(!env.log().contains("ERROR"), "{}", env.log());
}

/// A request is run once at most, though nobody can read what became of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_request_whose_job_is_in_quarantine_is_refused_and_not_run_again() {
    let mut env = Env::builder().admin("admin").start();
    let text = format!("echo $JOB_ID >> {}/runs", env.shared().display());
    let again = async |env: &Env, id: &str| {
        try_request(&mut env.client("user-a").await, api::script(&text), id).await
    };
    let ids = ["in spec.json", "in spawn.json", "in the index", "in none"];
    let mut jobs = Vec::new();
    for id in ids {
        let job = again(&env, id).await.unwrap();
        jobs.push(api::ended(&mut env.client("user-a").await, &job.id).await.id);
    }
    env.kill_broker();
    let spoil = |n: usize, name: &str, text: &str| {
        fs::write(env.job_dir(&jobs[n]).join(name), text).unwrap();
    };
    spoil(0, "final.json", "{");
    spoil(1, "spec.json", "?");
    for n in [2, 3] {
        spoil(n, "spec.json", "?");
        spoil(n, "spawn.json", "?");
    }
    let index = env.path("state/finished.idx");
    let lines = fs::read_to_string(&index).unwrap();
    let known: Vec<_> = lines.lines().filter(|line| line.contains(&jobs[2])).collect();
    fs::write(&index, known.join("\n") + "\n").unwrap();

    env.start_broker();
    let quarantined = until_quarantined(&env, 4);
    for (id, reason) in &quarantined {
        assert_eq!(reason.contains("may be made again"), *id == jobs[3], "{reason}");
    }
    for _ in 0..2 {
        for (id, job) in ids.iter().zip(&jobs).take(3) {
            let status = again(&env, id).await.unwrap_err();
            assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
            assert_eq!(reason(&status), "REQUEST_QUARANTINED");
            assert!(status.message().contains(job), "{status:?}");
        }
        env.restart_broker();
    }
    // Somebody else's is another one, and so is what an operator has seen to.
    let other = try_request(&mut env.client("user-b").await, api::script(&text), ids[0]).await;
    other.unwrap();
    fs::remove_dir_all(env.path("state/quarantine").join(&jobs[0])).unwrap();
    again(&env, ids[0]).await.unwrap();
    // Nobody can know: the reason says so.
    again(&env, ids[3]).await.unwrap();
    let runs = || fs::read_to_string(env.shared().join("runs")).unwrap().lines().count();
    until("all have run", || (runs() == 7).then_some(()));
}

fn uid(pid: i32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find(|line| line.starts_with("Uid:")).unwrap().to_owned()
}
