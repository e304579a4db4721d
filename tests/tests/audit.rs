//! Who did what: the ids of calls, and the audit of what was decided.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::HashSet;
use std::fs;
use std::process::Command;

use job_api::refusal::refusal;
use job_api::v1::{GetJobRequest, WhoAmIRequest};
use job_api::{REASON_METADATA, REQUEST_ID_METADATA};
use job_certs::{Reason, days};
use job_tests::refusal::violation;
use job_tests::{Env, api, eventually};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tonic::Request;
use tonic::metadata::{MetadataMap, MetadataValue};

fn request_id(metadata: &MetadataMap) -> String {
    metadata.get(REQUEST_ID_METADATA).unwrap().to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_answer_and_every_refusal_has_an_id_that_the_broker_chose() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let mut ids = HashSet::new();
    for _ in 0..3 {
        let mut request = Request::new(WhoAmIRequest {});
        request.metadata_mut().insert(REQUEST_ID_METADATA, "mine".parse().unwrap());
        ids.insert(request_id(client.who_am_i(request).await.unwrap().metadata()));
        let absent = GetJobRequest { id: "01900000-0000-7000-8000-000000000000".into() };
        ids.insert(request_id(client.get_job(absent).await.unwrap_err().metadata()));
    }
    assert_eq!(ids.len(), 6, "{ids:?}");
    assert!(!ids.contains("mine"));
    let id = api::start(&mut client, api::script("true")).await.id;
    let refused = env.jobctl("user-b", &["stop", &id]).err();
    assert!(refused.contains("request id: 0"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_reason_that_is_too_long_or_is_no_text_is_refused_and_never_cut() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    for reason in [vec![b'x'; 513], vec![0xff]] {
        let mut request = Request::new(WhoAmIRequest {});
        request.metadata_mut().insert_bin(REASON_METADATA, MetadataValue::from_bytes(&reason));
        let refused = client.who_am_i(request).await.unwrap_err();
        assert_eq!(violation(&refused).0, "metadata x-reason-bin");
    }
}

/// All lines of the audit, after the broker has written the last.
fn lines(env: &mut Env) -> Vec<Value> {
    env.stop_broker();
    let mut files: Vec<_> =
        fs::read_dir(env.path("state/audit")).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let logs = files.iter().filter(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with("audit-")
    });
    let text: String = logs.map(|path| fs::read_to_string(path).unwrap()).collect();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// `action type outcome user` of the lines about a job.
fn about(lines: &[Value], job: &str) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let of_job = lines.iter().filter(|line| line["job"]["id"] == job);
    let lines = of_job.map(|line| {
        let event = &line["event"];
        let (action, kind) = (text(&event["action"]), text(&event["type"][0]));
        let (outcome, user) = (text(&event["outcome"]), text(&line["user"]["name"]));
        format!("{action} {kind} {outcome} {user}")
    });
    lines.collect()
}

fn verify(env: &Env, arguments: &[&str]) -> (bool, String) {
    let dir = env.path("state/audit").display().to_string();
    let mut command = Command::new(&env.programs().broker);
    command.args(["audit", "verify"]);
    match arguments {
        [first, ..] if !first.starts_with("--") => {}
        _ => _ = command.arg(dir),
    }
    let verified = command.args(arguments).output().unwrap();
    let text = String::from_utf8(verified.stdout).unwrap();
    (verified.status.success(), text + &String::from_utf8(verified.stderr).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_verb_leaves_its_permission_with_the_rule_and_its_outcome_and_refusals_do_too() {
    let mut env = Env::builder().admin("root").start();
    let words = |words: &[&str]| words.iter().map(|w| w.to_string()).collect::<Vec<_>>();
    let id = env.jobctl("user-a", &["start", "--", "sleep", "1000"]).id();
    for verb in [
        words(&["kill", "-s", "CONT", &id]),
        words(&["pause", &id]),
        words(&["resume", &id]),
        words(&["update", "--time", "1h", &id]),
    ] {
        env.jobctl("user-a", &verb).expect(0);
        env.jobctl("user-b", &verb).expect(1);
    }
    env.jobctl("user-b", &["logs", &id]).expect(1);
    env.jobctl("root", &["stop", &id]).expect(0);
    env.jobctl("user-a", &["wait", &id]);
    env.jobctl("root", &["logs", &id]).expect(0);
    env.jobctl("user-a", &["rm", &id]).expect(0);
    let lines = lines(&mut env);
    let about = about(&lines, &id);
    for expected in [
        "start allowed unknown user-a",
        "start info success user-a",
        "signal allowed unknown user-a",
        "signal info success user-a",
        "signal denied failure user-b",
        "pause allowed unknown user-a",
        "pause info success user-a",
        "pause denied failure user-b",
        "update allowed unknown user-a",
        "update info success user-a",
        "view denied failure user-b",
        "logs denied failure user-b",
        "stop allowed unknown root",
        "stop info success root",
        "end end success -",
        "logs allowed unknown root",
        "delete allowed unknown user-a",
        "delete info success user-a",
    ] {
        assert!(about.iter().any(|line| line == expected), "{expected}\n{about:#?}");
    }
    let rule_of = |action: &str, kind: &str| {
        let line = lines
            .iter()
            .find(|line| line["event"]["action"] == action && line["event"]["type"][0] == kind);
        line.unwrap()["rule"]["name"].as_str().unwrap().to_owned()
    };
    assert_eq!(rule_of("stop", "allowed"), "admins of the configuration");
    for verb in ["start", "pause", "delete"] {
        assert!(rule_of(verb, "allowed").starts_with("everybody controls their own jobs"));
    }
    let start = lines.iter().find(|line| line["event"]["action"] == "start").unwrap();
    assert_eq!(start["process"]["args"], json!(["sleep", "1000"]));
    assert_eq!(start["source"]["ip"], "127.0.0.1");
    assert_eq!(start["tls"]["client"]["hash"]["sha256"].as_str().unwrap().len(), 64);
    assert!(start["http"]["request"]["id"].is_string() && start["ecs"].is_null());
    let end = lines.iter().find(|line| line["event"]["action"] == "end").unwrap();
    assert_eq!(end["job"]["by"], "root");
    let (is_good, said) = verify(&env, &[]);
    assert!(is_good, "{said}");
}

#[test]
fn a_line_that_was_changed_removed_moved_or_cut_off_is_named_and_a_checkpoint_proves_the_end() {
    let mut env = Env::start();
    for _ in 0..3 {
        env.jobctl("user-a", &["run", "--", "true"]).expect(0);
    }
    let count = lines(&mut env).len();
    let file = env.path("state/audit/audit-00000000000000000001.jsonl");
    let whole = fs::read_to_string(&file).unwrap();
    let all: Vec<&str> = whole.split_inclusive('\n').collect();
    let said_of = |text: String| {
        fs::write(&file, text).unwrap();
        let (is_good, said) = verify(&env, &[]);
        assert!(!is_good, "{said}");
        said
    };
    let without = |at: usize| [&all[..at], &all[at + 1..]].concat().concat();
    assert!(said_of(without(2)).contains("line 3: lines 3 to 3 are missing"));
    assert!(said_of(without(0)).contains("lines 1 to 1 are missing at the beginning"));
    let cut = said_of(without(count - 1));
    assert!(cut.contains(&format!("lines {count} to {count} were cut off")), "{cut}");
    let changed = said_of(whole.replacen("user-a", "user-b", 1));
    assert!(changed.contains("was changed"), "{changed}");
    let mut moved = all.clone();
    moved.swap(1, 2);
    assert!(said_of(moved.concat()).contains("missing before this line"));
    // Even the last line, and all of them at once: the signed checkpoint of the shutdown has the head.
    let last = all[count - 1].replace("SIGTERM", "SIGKILL");
    assert!(said_of(all[..count - 1].concat() + &last).contains("the checkpoint of"));
    assert!(said_of(String::new()).contains("cut off"));
    fs::write(&file, &whole).unwrap();
    assert!(verify(&env, &[]).0);
    let checkpoints = env.path("state/audit/checkpoints.jsonl");
    let signed = fs::read_to_string(&checkpoints).unwrap();
    let forged = signed.replace("\"head\":\"", "\"head\":\"1");
    fs::write(&checkpoints, forged).unwrap();
    let (is_good, said) = verify(&env, &[]);
    assert!(!is_good && said.contains("its signature is not its signer's"), "{said}");
    fs::remove_file(&checkpoints).unwrap();
    fs::write(&file, without(count - 1)).unwrap();
    assert!(verify(&env, &[]).0, "nobody knows the last line any more");
    let head = format!("{count}:{}", "0".repeat(64));
    assert!(!verify(&env, &["--head", &head]).0, "but whoever kept the journal's");
}

#[test]
fn a_rotation_keeps_the_chain_and_what_is_dropped_is_said_in_it() {
    let sections = "[audit]\nfile_size = \"64K\"\nfiles = 2\n";
    let mut env = Env::builder().sections(sections).start();
    let long = "x".repeat(7_000);
    for _ in 0..30 {
        env.jobctl("user-a", &["run", "--", "true", &long]).expect(0);
    }
    let lines = lines(&mut env);
    let first = lines[0]["audit"]["seq"].as_u64().unwrap();
    assert!(first > 1, "{first}");
    let drop = lines.iter().rfind(|line| line["event"]["action"] == "audit-drop").unwrap();
    assert_eq!(drop["audit"]["dropped"]["last_seq"], first - 1);
    let (is_good, said) = verify(&env, &[]);
    assert!(is_good && said.contains("2 files"), "{said}");
}

#[test]
fn a_broker_that_dies_at_the_group_commit_loses_no_change_that_was_acknowledged() {
    let mut env = Env::start();
    let (mut started, mut stopped, mut deaths) = (Vec::new(), Vec::new(), 0);
    for point in ["AuditWritten", "AuditSynced"] {
        for nth in [3, 4, 5] {
            env.kill_broker();
            let mark = env.path("mark");
            let _ = fs::remove_file(&mark);
            env.crash_brokers(Some(format!("{point}:{nth}:{}", mark.display())));
            env.start_broker();
            while !env.broker_has_died() {
                let start = env.jobctl(
                    "user-a",
                    &["start", "--reconnect-timeout", "0s", "--", "sleep", "1000"],
                );
                if start.code() != 0 {
                    continue;
                }
                started.push(start.id());
                let stop =
                    env.jobctl("user-a", &["stop", "--reconnect-timeout", "0s", &start.id()]);
                if stop.code() == 0 {
                    stopped.push(start.id());
                }
            }
            deaths += fs::metadata(&mark).unwrap().len();
            env.crash_brokers(None);
            assert!(env.try_revive_broker());
        }
    }
    assert_eq!(deaths, 6);
    let lines = lines(&mut env);
    for (ids, expected) in [(&started, "start allowed"), (&stopped, "stop allowed")] {
        for id in ids {
            let about = about(&lines, id);
            assert!(about.iter().any(|line| line.starts_with(expected)), "{id}: {about:#?}");
        }
    }
    assert!(!started.is_empty());
    let (is_good, said) = verify(&env, &[]);
    assert!(is_good, "{said}");
}

#[test]
fn what_a_caller_writes_makes_no_line_of_its_own() {
    let mut env = Env::start();
    let forged =
        "x\n{\"event\":{\"action\":\"stop\"},\"audit\":{\"seq\":1,\"prev\":\"00\"}}\n\u{1b}[2J\r";
    env.jobctl("user-a", &["run", "--env", "SECRET=value", "--", "true", forged]).expect(0);
    let lines = lines(&mut env);
    assert!(lines.iter().all(|line| line["event"]["action"] != "stop"));
    let start = lines.iter().find(|line| line["process"].is_object()).unwrap();
    assert_eq!(start["process"]["args"][1], forged);
    assert_eq!(start["process"]["env_vars"], json!(["SECRET"]));
    let file = env.path("state/audit/audit-00000000000000000001.jsonl");
    assert!(!fs::read_to_string(file).unwrap().contains("value"));
    assert!(verify(&env, &[]).0);
}

#[test]
fn a_line_that_a_crash_tore_is_told_from_a_cut_and_the_next_broker_says_so_in_the_chain() {
    let mut env = Env::start();
    env.jobctl("user-a", &["run", "--", "true"]).expect(0);
    lines(&mut env);
    let file = env.path("state/audit/audit-00000000000000000001.jsonl");
    let mut text = fs::read_to_string(&file).unwrap();
    text.push_str("{\"@timestamp\":\"20");
    fs::write(&file, text).unwrap();
    let (is_good, said) = verify(&env, &[]);
    assert!(is_good && said.contains("is not finished (17 bytes)"), "{said}");
    env.start_broker();
    let lines = lines(&mut env);
    assert!(lines.iter().any(|line| line["event"]["action"] == "audit-repair"));
    assert!(verify(&env, &[]).0);
}

#[test]
fn the_reason_that_a_caller_gives_is_in_the_entry() {
    let mut env = Env::start();
    let id = env.jobctl("user-a", &["start", "--", "sleep", "1000"]).id();
    env.jobctl("user-a", &["--reason", "ticket 7: grün", "stop", &id]).expect(0);
    let lines = lines(&mut env);
    let stop = lines.iter().find(|line| line["event"]["action"] == "stop").unwrap();
    assert_eq!(stop["event"]["reason"], "ticket 7: grün");
}

#[test]
fn without_an_audit_changes_are_refused_and_a_runaway_job_is_stopped_all_the_same() {
    let mut env = Env::start();
    let id = env.jobctl("user-a", &["start", "--", "sleep", "1000"]).id();
    env.set_sections("[audit]\ndir = \"/dev/null\"\n");
    env.restart_broker();
    for words in [&["start", "--", "true"][..], &["pause", &id]] {
        let refused = env.jobctl("user-a", words);
        assert_ne!(refused.code(), 0);
        assert!(refused.err().contains("the audit cannot be written"), "{}", refused.err());
    }
    assert_eq!(env.jobctl("user-a", &["ps", "-a", "-q"]).out().lines().count(), 1);
    env.jobctl("user-a", &["stop", &id]).expect(0);
    env.jobctl("user-a", &["wait", "--until", "end", "-q", &id]);
    assert!(env.log().contains("an entry of the audit is kept in memory"), "{}", env.log());
    env.set_sections("[audit]\non_failure = \"continue\"\ndir = \"/dev/null\"\n");
    env.restart_broker();
    env.jobctl("user-a", &["run", "--", "true"]).expect(0);
}

/// What a line of what the broker did of itself says, but for its time and the hashes.
fn own_line(lines: &[Value], action: &str, outcome: &str) -> Value {
    let is_it = |line: &&Value| {
        let event = &line["event"];
        event["action"] == action && event["outcome"] == outcome && line["http"].is_null()
    };
    let found = lines.iter().find(is_it);
    found.unwrap_or_else(|| panic!("{action} {outcome}\n{lines:#?}")).clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_the_broker_does_of_itself_about_certificates_and_reloads_is_in_the_audit() {
    let mut env = Env::builder().admin("admin").start();
    let list = env.path("pki/ca.crl");
    env.pki().write_crl(days(1), None).unwrap();
    env.set_tls(&format!("crl = [\"{}\"]\non_revoked = \"stop\"\n", list.display()));
    env.reload_and_wait();
    let mut client = env.client("user-a").await;
    let id = api::start(&mut client, api::script("sleep 1000")).await.id;
    env.pki().revoke("user-a", Reason::KeyCompromise).unwrap();
    env.pki().write_crl(days(1), None).unwrap();
    env.reload_and_wait();
    api::ended(&mut env.client("admin").await, &id).await;
    let credentials = env.credentials("user-a");
    let ask = async || refusal(&env.addr(), &credentials).await.unwrap();
    eventually("a refusal", ask).await;
    env.set_tls("crl = [\"/nonexistent\"]\n");
    env.reload_and_wait();

    let lines = lines(&mut env);
    let stop = own_line(&lines, "stop", "success");
    assert_eq!((&stop["job"]["id"], &stop["job"]["owner"]), (&json!(id), &json!("user-a")));
    assert_eq!(stop["rule"]["name"], "tls.on_revoked");
    let why = stop["message"].as_str().unwrap();
    let serial = why.strip_prefix("revocation of ").unwrap();
    let end = own_line(&lines, "connection-end", "success");
    assert_eq!(
        (&end["user"]["name"], &end["source"]["ip"]),
        (&json!("user-a"), &json!("127.0.0.1"))
    );
    assert_eq!(end["error"]["code"], "CERTIFICATE_REVOKED");
    assert_eq!(end["tls"]["client"]["x509"]["serial_number"], serial);
    let refused = own_line(&lines, "connection", "failure");
    assert_eq!(refused["error"]["code"], "CERTIFICATE_REVOKED");
    let said = refused["error"]["message"].as_str().unwrap().replace(':', "").to_uppercase();
    assert!(said.contains(serial), "{refused}");
    assert_eq!(refused["user"], Value::Null, "nothing has proven who it is");
    own_line(&lines, "reload", "success");
    let reload = own_line(&lines, "reload", "failure");
    assert!(reload["error"]["message"].as_str().unwrap().contains("/nonexistent"), "{reload}");
}

#[test]
fn an_auditor_learns_with_one_command_who_stopped_a_job_that_is_gone_and_others_are_refused() {
    let env = Env::builder().admin("root").start();
    let id = env.jobctl("user-a", &["start", "--", "sleep", "1000"]).id();
    env.jobctl("user-b", &["stop", &id]).expect(1);
    env.jobctl("root", &["--reason", "ticket 7\u{9b}2J", "stop", &id]).expect(0);
    env.jobctl("user-a", &["wait", "--until", "end", "-q", &id]);
    env.jobctl("user-a", &["rm", &id]).expect(0);
    let asked = ["audit", "--job", &id, "--verb", "stop"];
    let found = env.jobctl("root", &[&asked[..], &["-o", "json"]].concat()).expect(0).out();
    let file = env.path("state/audit/audit-00000000000000000001.jsonl");
    let file = fs::read_to_string(file).unwrap();
    assert!(found.lines().all(|line| file.lines().any(|stored| stored == line)), "{found}");
    let found: Vec<Value> = found.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let expected =
        ["stop denied failure user-b", "stop allowed unknown root", "stop info success root"];
    assert_eq!(about(&found, &id), expected);
    assert_eq!(found[1]["rule"]["name"], "admins of the configuration");
    assert_eq!(found[1]["event"]["reason"], "ticket 7\u{9b}2J");
    let table = env.jobctl("root", &asked).expect(0).out();
    assert!(table.starts_with("TIME ") && table.contains("ticket 7\\u{9b}2J"), "{table}");
    // A beginning of the id, what its owner did, and nothing of the time to come.
    let count = |words: &[&str]| {
        env.jobctl("root", &[&["audit", "-q"], words].concat()).expect(0).out().lines().count()
    };
    assert_eq!(count(&["--job", &id[..30], "--verb", "delete", "--since", "1h"]), 2);
    assert_eq!(count(&["--owner", "user-b"]), 0);
    assert_eq!(count(&["--since", "2200-01-01T00:00:00Z"]), 0);
    for (words, field) in [(["--verb", "stopp"], "verb"), (["--job", "nightly"], "job")] {
        let refused = env.jobctl("root", &[&["audit"], &words[..]].concat());
        assert!(refused.expect(1).err().contains(field), "{}", refused.err());
    }
    let refused = env.jobctl("user-b", &["audit", "--job", &id]);
    let said = refused.expect(1).err();
    assert!(said.contains("\"admin\"") && refused.out().is_empty(), "{said}");
    assert!(!said.contains("user-a"), "{said}");
    // Who read, or wanted to, is in it.
    let readers = env.jobctl("root", &["audit", "--verb", "admin", "-o", "json"]).expect(0).out();
    let readers: Vec<Value> = readers.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let is = |who: &str, what: &str| {
        let has = |line: &&Value| line["user"]["name"] == who && line["event"]["type"][0] == what;
        readers.iter().any(|line| has(&line))
    };
    assert!(is("root", "allowed") && is("user-b", "denied"), "{readers:#?}");
}

#[test]
fn who_follows_the_audit_sees_what_happens_across_rotations_and_restarts_until_its_role_ends() {
    let sections = "[audit]\nfile_size = \"64K\"\nfiles = 3\n";
    let mut env = Env::builder().admin("root").sections(sections).start();
    let words = ["audit", "--follow", "--verb", "start", "--owner", "user-a", "-o", "json"];
    let follower = env.spawn_jobctl("root", &words);
    let mut started = Vec::new();
    let long = "x".repeat(7_000);
    for n in 0..24 {
        let id = env.jobctl("user-a", &["start", "--", "true", &long]).id();
        follower.wait_for_stdout(&id);
        started.push(id);
        if n == 12 {
            env.restart_broker();
            follower.wait_for_stderr("reconnected");
        }
    }
    assert!(!env.path("state/audit/audit-00000000000000000001.jsonl").exists(), "it has rotated");
    follower.signal(Signal::SIGINT);
    let finished = follower.finish();
    assert_eq!(finished.code(), 130);
    let lines = finished.out();
    let lines: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let seqs: Vec<_> = lines.iter().map(|line| line["audit"]["seq"].as_u64().unwrap()).collect();
    assert!(seqs.windows(2).all(|two| two[0] < two[1]), "in order, none twice: {seqs:?}");
    let allowed = lines.iter().filter(|line| line["event"]["type"][0] == "allowed");
    let ids: Vec<_> = allowed.map(|line| line["job"]["id"].as_str().unwrap()).collect();
    assert_eq!(ids, started);
    let follower = env.spawn_jobctl("root", &["audit", "-f"]);
    follower.wait_for_stdout("broker-start");
    let policy = "[[role]]\nname = \"none\"\nidentities = [\"root\"]\ndeny = [\"admin\"]\n";
    env.set_policy(Some(policy));
    env.reload_broker();
    let said = follower.finish().expect(1).err();
    assert!(said.contains("\"admin\""), "{said}");
}
