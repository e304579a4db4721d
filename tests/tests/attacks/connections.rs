//! Connections that are no clients, or flood with frames. All of these held when they were first
//! made.

use job_certs::{Authority, CA_VALIDITY, USER_VALIDITY};
use job_tests::Env;
use job_tests::attack::{self, Attack, Attacker, Verdict, form};

fn attack(name: &str, attacker: &str, words: &[&str]) -> Verdict {
    let env = Env::start();
    let verdict = attack::measure(&env, &Attack::new(name), || {
        Attacker::start(&env, "mallory", attacker, words).finish()
    });
    verdict.assert();
    verdict
}

#[test]
fn a_forged_certificate_of_the_bystander_is_nobody_and_costs_nobody() {
    let env = Env::start();
    // The same names by an authority of the same name, and the bystander's own with a key of another.
    let forger = Authority::create(&env.path("forger"), "local", CA_VALIDITY).unwrap();
    let forged = forger.issue_user("bystander", None, USER_VALIDITY).unwrap();
    let words = [
        form("count=100", "count=2000").to_owned(),
        format!("cert={}", forged.certificate.display()),
        format!("key={}", forged.key.display()),
    ];
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let verdict = attack::measure(&env, &Attack::new("forged certificates"), || {
        Attacker::start(&env, "mallory", "certificates", &words).finish()
    });
    assert_eq!(verdict.seen["answered"], 0, "{}", verdict.seen);
    verdict.assert();
}

#[test]
fn a_flood_of_half_handshakes_holds_up_nobody() {
    let words = form(["count=500", "seconds=3"], ["count=3000", "seconds=30"]);
    attack("item 8, row 30: half handshakes", "half-handshakes", &words);
}

#[test]
fn a_flood_of_completed_handshakes_holds_up_nobody() {
    // The attacker shares the processors with the broker, as a local user would, at a lower priority; what it
    // took of them is `cpu_ms`.
    let words = form(["lanes=32", "seconds=3"], ["lanes=32", "seconds=20"]);
    let verdict = attack("row 30: completed handshakes", "handshakes", &words);
    assert!(verdict.seen["shaken"].as_u64() > Some(32), "{}", verdict.seen);
}

#[test]
fn rapid_resets_hold_up_nobody() {
    let words = form(["count=20000", "seconds=3"], ["count=1000000", "seconds=20"]);
    let verdict = attack("row 30: rapid reset", "rapid-reset", &words);
    assert!(verdict.seen["sent"].as_u64() > Some(0), "{}", verdict.seen);
}

#[test]
fn a_flood_of_settings_holds_up_nobody() {
    let words = form(["count=300000", "seconds=3"], ["count=10000000", "seconds=20"]);
    attack("row 36: SETTINGS flood", "settings", &words);
}

#[test]
fn a_flood_of_pings_holds_up_nobody() {
    let words = form(["count=300000", "seconds=3"], ["count=10000000", "seconds=20"]);
    attack("row 36: PING flood", "pings", &words);
}

#[test]
fn a_header_that_never_ends_ends_its_connection() {
    let words = form(["count=500", "seconds=3"], ["count=20000", "seconds=20"]);
    let verdict = attack("row 36: CONTINUATION flood", "continuations", &words);
    assert!(verdict.seen["ended_by_the_broker"].as_u64() > Some(0), "{}", verdict.seen);
}

#[test]
fn headers_that_are_too_large_are_refused_and_hold_up_nobody() {
    let words = form(["count=500", "seconds=3"], ["count=20000", "seconds=20"]);
    attack("row 36: large headers", "large-headers", &words);
}
