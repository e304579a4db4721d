//! Readers who do not read. Both held when they were first made, but for their memory.

use job_api::v1::JobSpec;
use job_tests::attack::{self, Attack, Attacker, form};
use job_tests::{Env, api, scaled};

const MIB: u64 = 1 << 20;

/// 20 jobs whose arguments make every page of a list as long as it may be.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_connection_that_never_reads_costs_a_bounded_amount_of_memory() {
    let env = Env::start();
    let mut client = env.client("mallory").await;
    let long = "x".repeat(100 << 10);
    let mut job = String::new();
    for _ in 0..20 {
        let spec = JobSpec { argv: vec!["echo".into(), long.clone()], ..JobSpec::default() };
        job = api::start(&mut client, spec).await.id;
    }
    let words = form(
        ["connections=2", "streams=32", "seconds=3"],
        ["connections=8", "streams=100", "seconds=20"],
    );
    let job = format!("job={job}");
    let words = [&words[..], &[job.as_str()]].concat();
    let attack = Attack::new("row 36: windows of no byte").peak_mib(form(256, 1024));
    let verdict = attack::measure(&env, &attack, || {
        Attacker::start(&env, "mallory", "never-read", &words).finish()
    });
    assert!(verdict.seen["held"].as_u64() > Some(0), "{}", verdict.seen);
    verdict.assert();
}

/// The job goes on: its output is on the disk, and is what it wrote, with nobody reading on.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn readers_who_stop_in_the_middle_hold_up_neither_the_job_nor_others() {
    let env = Env::start();
    let mut client = env.client("mallory").await;
    let bytes = form(scaled(64, 16), 1024) * MIB;
    let text = format!("exec {} random {bytes} 3", env.oracle());
    let id = api::start(&mut client, api::script(&text)).await.id;
    let job = format!("job={id}");
    let words = form(
        ["connections=2", "streams=10", "seconds=3"],
        ["connections=20", "streams=20", "seconds=20"],
    );
    let words = [&words[..], &[job.as_str()]].concat();
    let attack = Attack::new("row 29: readers who stop in the middle").peak_mib(form(128, 256));
    let verdict = attack::measure(&env, &attack, || {
        Attacker::start(&env, "mallory", "stop-reading", &words).finish()
    });
    let ended = api::ended(&mut client, &id).await;
    assert_eq!((ended.exit_code, ended.stdout_bytes, ended.dropped_bytes), (Some(0), bytes, 0));
    assert!(verdict.seen["read"].as_u64() > Some(0), "{}", verdict.seen);
    verdict.assert();
}
