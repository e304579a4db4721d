//! Records that cannot be read, and what is no job: out of the way, and the rest is served.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::time::Duration;

use job_api::v1::{GetServerInfoRequest, JobSpec};
use job_tests::api::{reason, try_request};
use job_tests::finished::{directories, ids, quarantined, run, until_quarantined};
use job_tests::{Env, api, eventually, until};
use tonic::Code;

/// Of the workload.
fn uid(env: &Env, id: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", env.cgroup().work(id)[0])).unwrap();
    status.lines().find(|line| line.starts_with("Uid:")).unwrap().to_owned()
}

/// FAULTS 22
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_job_with_a_corrupt_spec_is_quarantined_and_the_rest_is_served() {
    let mut env = Env::builder().admin("admin").start();
    let mut client = env.client("user-a").await;
    let corrupt = api::start(&mut client, api::spec(&["echo", "one"])).await.id;
    let fine = api::start(&mut client, api::spec(&["echo", "two"])).await.id;
    api::ended(&mut client, &corrupt).await;
    api::ended(&mut client, &fine).await;
    env.stop_broker();
    let path = env.job_dir(&corrupt).join("spec.json");
    let damaged = fs::read_to_string(&path).unwrap().replacen("{", "{{", 1);
    fs::write(&path, &damaged).unwrap();
    env.start_broker();

    let mut admin = env.client("admin").await;
    let quarantine = async || {
        let info = admin.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
        (!info.quarantined.is_empty()).then_some(info)
    };
    // Of a job that is over it is found out beside the serving.
    let info = eventually("a job is quarantined", quarantine).await;
    assert_eq!(info.quarantined.len(), 1);
    assert_eq!(info.quarantined[0].id, corrupt);
    assert!(info.quarantined[0].reason.contains("spec.json"), "{:?}", info.quarantined);
    let mut client = env.client("user-a").await;
    let info = client.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
    assert!(info.quarantined.is_empty(), "others' jobs are admins' business");
    assert_eq!(api::output(&mut client, &fine).await.stdout, b"two\n");
    assert_eq!(env.jobctl("user-a", &["run", "--", "echo", "three"]).out(), "three\n");
    let aside = env.path("state/quarantine").join(&corrupt);
    assert_eq!(fs::read_to_string(aside.join("spec.json")).unwrap(), damaged, "it is as it was");
    assert_eq!(fs::read(aside.join("stdout.log")).unwrap(), b"one\n");
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
    let own = uid(&env, &id);
    let other = env.jobctl("user-a", &["start", "--user", "pool", "--", "sleep", "1000"]).id();
    assert_ne!(uid(&env, &other), own);
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

/// As after a crash of a broker whose package has been replaced by an older one all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_job_whose_records_are_of_a_later_version_runs_on_and_nobody_takes_what_is_its_own() {
    let mut env = Env::builder().admin("admin").start();
    let gate = env.gate();
    let text = format!("echo up; {}; echo done; exit 3", gate.wait());
    let spec = JobSpec { run_as: "pool".into(), ..api::script(&text) };
    let mut client = env.client("user-a").await;
    let id = try_request(&mut client, spec.clone(), "once").await.unwrap().id;
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

    let found = quarantined(&env);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].0 == id && found[0].1.contains("still runs"), "{found:?}");
    let mut client = env.client("user-a").await;
    let refused = try_request(&mut client, spec.clone(), "once").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert_eq!(reason(&refused), "REQUEST_QUARANTINED");
    let sleeper = JobSpec { run_as: "pool".into(), ..api::spec(&["sleep", "1000"]) };
    let other = api::start(&mut client, sleeper).await.id;
    assert_ne!(uid(&env, &other), own);

    env.kill_broker();
    fs::write(&path, record).unwrap();
    env.start_broker();
    assert_eq!(quarantined(&env), []);
    let mut client = env.client("user-a").await;
    assert_eq!(try_request(&mut client, spec.clone(), "once").await.unwrap().id, id);
    gate.open();
    let output = api::output(&mut client, &id).await;
    assert_eq!((output.job.exit_code, output.stdout.as_slice()), (Some(3), &b"up\ndone\n"[..]));
    api::stop(&mut client, &other, Duration::ZERO).await;
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
    let found = quarantined(&env);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].0 == ".removed-x" && found[0].1.contains("cannot be removed"), "{found:?}");
    env.assert_clean();
}
