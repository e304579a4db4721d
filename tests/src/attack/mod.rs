//! Attacks on a broker, and their effect on a well-behaved client of another identity. An attack must run in a
//! process of its own: the program `attacker`, with one file for each kind.
//!
//! So does the [`Bystander`], which makes a fixed mix of calls all the time. [`measure()`] runs both, and a
//! [`Verdict`] has the cost of the attack to others: `verdict.assert()` checks it against the bounds.
//!
//! ```ignore
//! let env = Env::start();
//! let verdict = attack::measure(&env, &Attack::new("item 1: ...").peak_mib(100), || {
//!     Attacker::start(&env, "mallory", "refusals", &["calls=100"]).finish()
//! });
//! assert_eq!(verdict.seen["calls"], 100); // what the attacker saw, for the test to judge
//! verdict.assert();
//! ```

mod attacker;
mod bounds;
mod bystander;
pub mod frames;
mod gauge;
mod peer;
pub mod raw;
mod verdict;

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::env::Env;
use crate::measure;
pub use attacker::{Args, Attacker, end_with_parent};
pub use bounds::{Attack, form, is_long};
pub use bystander::{Bystander, Phase};
pub use gauge::Gauge;
pub use peer::Peer;
pub use verdict::Verdict;

/// Maximum trials of an attack in its short form; `trials` explains why there are several.
const TRIALS: usize = 3;

/// Measures a bystander before, during and after an attack. `make` makes the attack and returns what the attacker
/// saw. A trial that exceeds a bound of time is repeated: a stalled host spoils a trial or two, a faulty program all
/// of them. A trial that exceeds the memory bound, or with failed calls, is the last: no slow host explains these.
///
/// # Panics
/// If the bystander cannot be started.
pub fn measure(env: &Env, attack: &Attack, mut make: impl FnMut() -> Value) -> Verdict {
    let _alone = measure::alone();
    let mut bystander = Bystander::start(env);
    let trials = form(TRIALS, 1);
    for trial in 1.. {
        let verdict = once(env, attack, &mut bystander, &mut make);
        verdict.tell();
        if trial >= trials || verdict.is_right() || !verdict.is_slow_only() {
            verdict.record();
            return verdict;
        }
    }
    unreachable!("the last trial returns")
}

fn once(
    env: &Env,
    attack: &Attack,
    bystander: &mut Bystander,
    make: &mut impl FnMut() -> Value,
) -> Verdict {
    let window = form(Duration::from_secs(1), Duration::from_secs(5));
    bystander.enter("before");
    sleep(window); // the window itself
    let lines = env.log().lines().count();
    let gauge = Gauge::start(env.broker().pid());
    let before = bystander.enter("during");
    let began = Instant::now();
    let seen = make();
    sleep(window.saturating_sub(began.elapsed())); // a window with enough calls for a p99
    let during = bystander.enter("after");
    let broker = gauge.read();
    sleep(window); // the window itself
    let after = bystander.enter("between");
    let log_lines = env.log().lines().count() - lines;
    Verdict { attack: attack.clone(), before, during, after, broker, log_lines, seen }
}
