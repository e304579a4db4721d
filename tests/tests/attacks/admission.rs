//! Items 8 and 5: connections of those who do not say who they are, connections of one identity, and
//! connections that there are no descriptors for.

use std::fs;
use std::process::Command;
use std::time::Duration;

use job_api::v1::WhoAmIRequest;
use job_tests::attack::{self, Attack, Attacker, form};
use job_tests::{Env, until};

/// gRPC's.
const RESOURCE_EXHAUSTED: i32 = 8;

#[test]
fn connections_that_say_nothing_keep_nobody_out() {
    // With 30 places for such connections.
    let env = Env::builder().descriptors(1024).start();
    let attack = Attack::new("item 8: 400 connections that do not shake hands");
    let seconds = form("seconds=3", "seconds=40");
    let verdict = attack::measure(&env, &attack, || {
        let words = ["connections=400", seconds];
        Attacker::start(&env, "mallory", "silent_connections", &words).finish()
    });
    assert!(verdict.seen["opened"].as_u64() > Some(400), "{verdict:?}");
    assert!(verdict.broker.descriptors < 150, "{verdict:?}");
    verdict.assert();
}

#[test]
fn the_connections_of_one_identity_are_bounded_and_it_is_told_so() {
    let env = Env::builder().descriptors(1024).start();
    let attack = Attack::new("item 8: more connections than one identity may have");
    let verdict = attack::measure(&env, &attack, || {
        Attacker::start(&env, "mallory", "connections", &["connections=60"]).finish()
    });
    let seen = &verdict.seen;
    assert_eq!(seen["codes"], serde_json::json!([0, RESOURCE_EXHAUSTED]), "{seen}");
    let told = seen["messages"][0].as_str().unwrap();
    assert!(told.starts_with("you have reached the limit of "), "{told}");
    assert!(told.contains(" connections"), "{told}");
    verdict.assert();
    // And when they are gone, there are places again.
    until("mallory is served again", || {
        (env.jobctl("mallory", &["run", "--", "true"]).code() == 0).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn without_descriptors_connections_are_let_in_on_spares_and_all_is_well_after_it() {
    let env = Env::builder().admin("admin").start();
    let mut before = env.client("user-a").await;
    before.who_am_i(WhoAmIRequest {}).await.unwrap();
    let pid = env.broker().pid();
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(env.client("user-a").await); // what is free below what is open is used up
    }
    limit(pid, free(pid));
    // Each has a spare descriptor, and gives it back.
    for _ in 0..20 {
        let mut client = env.client("admin").await;
        client.who_am_i(WhoAmIRequest {}).await.unwrap();
    }
    before.who_am_i(WhoAmIRequest {}).await.unwrap();
    limit(pid, 4096);
    tokio::time::timeout(Duration::from_secs(30), async {
        for _ in 0..20 {
            let client = &mut env.client("user-a").await;
            job_tests::api::start(client, job_tests::api::spec(&["true"])).await;
        }
    })
    .await
    .expect("starts are served again");
    let said = env.log();
    let lines = said.lines().filter(|line| line.contains("a spare one is used")).count();
    assert!((1..40).contains(&lines), "{said}");
}

fn open(pid: i32) -> Vec<usize> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    open.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
}

/// The lowest number that the next descriptor can have.
fn free(pid: i32) -> usize {
    let open = open(pid);
    (0..).find(|number| !open.contains(number)).unwrap()
}

fn limit(pid: i32, descriptors: usize) {
    let soft = format!("--nofile={descriptors}:");
    let done = Command::new("prlimit").args(["--pid", &pid.to_string(), &soft]).status().unwrap();
    assert!(done.success());
}
