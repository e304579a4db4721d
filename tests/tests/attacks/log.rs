//! Callers who have the broker say much.

use job_tests::Env;
use job_tests::attack::{self, Attack, Attacker, form};

/// Item 10: a line has 1 KiB at most, whatever it tells of, and is one line.
#[test]
fn starts_with_half_a_megabyte_of_arguments_are_short_lines_in_the_log() {
    let env = Env::start();
    let jobs = form(30, 2300);
    let attack = Attack::new("10: starts with 500 KiB of arguments each");
    let verdict = attack::measure(&env, &attack, || {
        let words = [&format!("jobs={jobs}"), "bytes=512000"];
        Attacker::start(&env, "mallory", "arguments", &words).finish()
    });
    assert_eq!(verdict.seen["started"], jobs);
    let log = env.log();
    let told = log.lines().filter(|line| line.contains("bytes, sha256 ")).count();
    assert!(told >= jobs, "each start is told: {told}");
    assert!(log.lines().all(|line| line.len() < 1024 && !line.starts_with('<')), "{log}");
    verdict.assert();
}
