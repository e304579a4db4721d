//! The measuring itself: a client that only calls is no attack.

use job_tests::Env;
use job_tests::attack::{self, Attack, Attacker};

#[test]
fn a_bystander_is_served_while_somebody_else_makes_calls_as_usual() {
    let env = Env::start();
    let attack = Attack::new("none: 200 calls as usual");
    let verdict = attack::measure(&env, &attack, || {
        Attacker::start(&env, "mallory", "refusals", &["calls=200", "bytes=1"]).finish()
    });
    assert_eq!(verdict.seen["broken"], 0);
    assert!(verdict.before.calls > 50, "{verdict:?}");
    assert!(verdict.broker.descriptors > 10 && verdict.broker.threads > 1, "{verdict:?}");
    verdict.assert();
}
