//! Item 3: what is kept in memory of requests that do not come to their end, and of answers that
//! nobody reads.

use job_tests::attack::{self, Attack, Attacker};
use job_tests::{Env, api};

/// gRPC's.
const INVALID_ARGUMENT: i32 = 3;
const DEADLINE_EXCEEDED: i32 = 4;
const RESOURCE_EXHAUSTED: i32 = 8;
const OUT_OF_RANGE: i32 = 11;
const INTERNAL: i32 = 13;

#[test]
fn half_sent_messages_take_no_more_than_their_senders_budget_and_end() {
    let env = Env::start();
    let attack = Attack::new("item 3: half a message on every stream");
    let (connections, streams) =
        attack::form(("connections=4", "streams=100"), ("connections=40", "streams=1000"));
    let verdict = attack::measure(&env, &attack, || {
        let words = [connections, streams, "bytes=1048576"];
        Attacker::start(&env, "mallory", "half_messages", &words).finish()
    });
    let seen = &verdict.seen;
    assert_eq!((&seen["unanswered"], &seen["broken"]), (&0.into(), &0.into()), "{seen}");
    let codes = serde_json::json!([DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED]);
    assert_eq!(seen["codes"], codes, "{seen}");
    verdict.assert();
}

#[test]
fn what_a_unary_call_does_not_take_is_refused_as_grpc_has_it() {
    let env = Env::start();
    let seen = Attacker::start(&env, "mallory", "odd_messages", &[]).finish();
    let codes = [0, INVALID_ARGUMENT, OUT_OF_RANGE, INTERNAL];
    assert_eq!(seen["codes"], serde_json::json!(codes));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn answers_that_nobody_reads_take_no_more_than_their_callers_budget() {
    let env = Env::start();
    let mut client = env.client("mallory").await;
    // A job whose arguments are shown whole, in 900 kB.
    let long = "x".repeat(100 << 10);
    let words = ["true", &long, &long, &long, &long, &long, &long, &long, &long, &long];
    let job = format!("job={}", api::start(&mut client, api::spec(&words)).await.id);
    let attack = Attack::new("item 3: answers that are not read");
    let streams = attack::form("streams=100", "streams=1000");
    let words = [job.as_str(), "connections=2", streams, attack::form("seconds=2", "seconds=60")];
    let verdict = tokio::task::block_in_place(|| {
        attack::measure(&env, &attack, || {
            Attacker::start(&env, "mallory", "unread_answers", &words).finish()
        })
    });
    let seen = &verdict.seen;
    assert_eq!(seen["codes"], serde_json::json!([RESOURCE_EXHAUSTED]), "{seen}");
    // That one which has taken the whole budget: for 900 kB there are 43 s.
    assert_eq!(seen["ended"], attack::form(0, 1), "{seen}");
    verdict.assert();
}
