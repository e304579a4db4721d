//! Requests that are small for who sends them and were large for who answers.

use job_tests::Env;
use job_tests::attack::{self, Attack, Attacker, form};

/// Of all that a status says, as HTTP/2 counts it: clients take 8 KiB by default.
const STATUS: u64 = 4096;

#[test]
fn refusals_do_not_repeat_the_input() {
    let env = Env::start();
    // One identity has 16 MiB of requests at a time, and as much again while they are put together.
    let attack = Attack::new("item 1, row 36: refusals of texts of 2 MB").peak_mib(64);
    let calls = form(100, 1_000);
    let verdict = attack::measure(&env, &attack, || {
        let calls = format!("calls={calls}");
        Attacker::start(&env, "mallory", "refusals", &[&calls, "bytes=2000000"]).finish()
    });
    assert_eq!(verdict.seen["broken"], 0, "{}", verdict.seen);
    assert!(verdict.seen["largest_metadata"].as_u64().unwrap() < STATUS, "{}", verdict.seen);
    verdict.assert();
}

#[test]
fn a_list_of_half_a_million_states_holds_up_nobody() {
    let env = Env::start();
    let attack = Attack::new("item 2, row 36: ListJobs with 500,000 states");
    let (jobs, calls) = form(("jobs=300", "calls=20"), ("jobs=3000", "calls=40"));
    Attacker::start(&env, "mallory", "jobs", &[jobs]).finish();
    let verdict = attack::measure(&env, &attack, || {
        Attacker::start(&env, "mallory", "states", &[calls, "states=500000"]).finish()
    });
    assert_eq!(verdict.seen["broken"], 0, "{}", verdict.seen);
    verdict.assert();
}
