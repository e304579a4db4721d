//! The end of the host, in good order and by a cut of the mains, and what is found after it.
//!
//! One test that goes down with its machine, twice, and goes on where it was when it is run again:
//! `cargo xtask test` has the machine booted three times on one disk.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use job_api::v1::job::State;
use job_api::v1::{Cause, Job, Source};
use job_tests::machine::{Host, sh};
use job_tests::{api, oracle, until};

const DIR: &str = "/var/tmp/reboot";

/// Across boots: files that name the jobs of the boot before.
fn note(name: &str, text: &str) {
    fs::create_dir_all(DIR).unwrap();
    fs::write(Path::new(DIR).join(name), text).unwrap();
}

fn noted(name: &str) -> Option<String> {
    fs::read_to_string(Path::new(DIR).join(name)).ok()
}

#[tokio::test]
#[ignore = "changes the machine, and has it go down twice"]
async fn jobs_are_stopped_in_good_order_before_the_host_goes_down_and_lost_when_it_is_cut_off() {
    if noted("cut").is_some() {
        after_the_cut().await;
    } else if noted("down").is_some() {
        after_a_shutdown().await;
    } else {
        before_a_shutdown().await;
    }
}

async fn before_a_shutdown() {
    let host = Host::ready();
    let jobs = host.start_oracles(5).await;
    let mut client = host.client().await;
    let script = "trap 'sleep 1; echo saved; exit 7' TERM; echo ready; while :; do sleep 0.1; done";
    let saves = api::start(&mut client, api::script(script)).await.id;
    let mut spec = api::script("trap '' TERM; echo deaf; while :; do sleep 1; done");
    spec.stop_timeout = Some(api::duration(Duration::from_secs(2)));
    let deaf = api::start(&mut client, spec).await.id;
    host.until_written(&[saves.clone(), deaf.clone()]);
    host.until_written(jobs.ids());
    note("oracles", &jobs.ids().join("\n"));
    note("saves", &saves);
    note("deaf", &deaf);
    note("down", "");
    host.power_off();
}

async fn after_a_shutdown() {
    let host = started_by_itself();
    let mut client = host.client().await;
    for id in noted("oracles").unwrap().lines() {
        let output = api::output(&mut client, id).await;
        let (out, err) = (oracle::verify('o', &output.stdout), oracle::verify('e', &output.stderr));
        assert!(out.is_ok_and(|lines| lines > 0) && err.is_ok_and(|lines| lines > 0), "{id}");
        assert!(was_stopped(&output.job, None, Some(15)), "{:?}", output.job);
    }
    let output = api::output(&mut client, &noted("saves").unwrap()).await;
    assert_eq!(output.stdout, b"ready\nsaved\n");
    assert!(was_stopped(&output.job, Some(7), None), "{:?}", output.job);
    let deaf = api::job(&mut client, &noted("deaf").unwrap()).await;
    assert!(was_stopped(&deaf, None, Some(9)), "{deaf:?}");

    let jobs = host.start_oracles(5).await;
    host.until_written(jobs.ids());
    sh("sync");
    for id in jobs.ids() {
        note(id, &String::from_utf8(host.log(id)).unwrap()); // which may be more than was synced
    }
    sh("sync");
    note("lost", &jobs.ids().join("\n"));
    note("cut", "");
    sh("sync");
    host.cut_power();
}

async fn after_the_cut() {
    let host = started_by_itself();
    let mut client = host.client().await;
    for id in noted("lost").unwrap().lines() {
        let output = api::output(&mut client, id).await;
        let (job, before) = (&output.job, noted(id).unwrap());
        assert_eq!((job.state(), job.cause()), (State::Lost, Cause::Lost), "{job:?}");
        let failure = job.failure.as_ref().unwrap();
        assert!(failure.message.contains("host"), "{failure:?}");
        let kept = String::from_utf8_lossy(&output.stdout);
        assert!(kept.starts_with(&before), "what was on the disk is there: {kept:?} {before:?}");
    }
    let jobs = host.start_oracles(2).await;
    host.assert_intact(&jobs).await;
}

/// Nobody but systemd starts the service after a boot.
fn started_by_itself() -> Host {
    let host = Host::installed();
    until("the service", || (host.property("ActiveState") == "active").then_some(()));
    host
}

fn was_stopped(job: &Job, exit_code: Option<i32>, signal: Option<i32>) -> bool {
    job.state() == State::Finished
        && job.cause() == Cause::Stopped
        && job.source() == Source::System
        && (job.exit_code, job.signal) == (exit_code, signal)
}
