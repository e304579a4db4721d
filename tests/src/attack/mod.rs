//! Attacks on a broker, and what a well-behaved client of another identity notices of them.
//!
//! An attack runs in a process of its own (the program `attacker`, one file for each room), and so
//! does the [`Bystander`], which makes a fixed mix of calls all the time. [`measure`] brings the two
//! together, and a [`Verdict`] says what the attack cost others: `verdict.assert()` judges it.
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
use crate::{is_testbed, measure};
pub use attacker::{Args, Attacker, end_with_parent};
pub use bystander::{Bystander, Phase};
pub use gauge::Gauge;
pub use peer::Peer;
pub use verdict::Verdict;

/// Most trials of an attack in its short form; see `trials` for why there are several.
const TRIALS: usize = 3;

/// Whether attacks are to take their long form, as under `cargo xtask soak --attacks`.
pub fn is_long() -> bool {
    std::env::var("JOB_TESTS_ATTACKS").is_ok_and(|form| form == "long")
}

/// A load: the first in the test command, the second in the long form.
pub fn form<T>(short: T, long: T) -> T {
    if is_long() { long } else { short }
}

/// What an attack is called, and what it may cost.
#[derive(Debug, Clone)]
#[must_use = "it is only a description"]
pub struct Attack {
    name: String,
    peak_mib: u64,
    p99: Duration,
    may_fail: bool,
}

impl Attack {
    /// An attack with the bounds that hold for all: another identity's p99 is 100 ms, the broker's
    /// memory 128 MiB. The name begins with the item or the row of the table of faults.
    pub fn new(name: &str) -> Attack {
        // The testbed has one slow processor for attacker, broker and bystander.
        let p99 = if is_testbed() { HARD } else { Duration::from_millis(100) };
        Attack { name: name.into(), peak_mib: 128, p99, may_fail: false }
    }

    /// The broker's resident memory at its highest, in MiB.
    pub fn peak_mib(self, peak_mib: u64) -> Attack {
        Attack { peak_mib, ..self }
    }

    /// Others may be refused while it lasts, as with a host that has no descriptors left; they have
    /// to be served again after it.
    pub fn may_refuse_others(self) -> Attack {
        Attack { may_fail: true, ..self }
    }
}

/// The bound of another identity's p99 in any case, on whatever machine.
const HARD: Duration = Duration::from_secs(1);

/// Measures a bystander before, during and after an attack, which `make` makes and answers with what
/// the attacker saw. Where the bounds are not kept, it is tried again: a host that stands still for a
/// moment spoils a trial or two, a wrong program all of them. The memory's bound and failed calls are
/// nothing that a slow host explains; the first trial with these is the last.
///
/// # Panics
/// When no bystander can be started.
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
    sleep(window.saturating_sub(began.elapsed())); // a window has enough calls for a p99
    let during = bystander.enter("after");
    let broker = gauge.read();
    sleep(window); // the window itself
    let after = bystander.enter("between");
    let log_lines = env.log().lines().count() - lines;
    Verdict { attack: attack.clone(), before, during, after, broker, log_lines, seen }
}
