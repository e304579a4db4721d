//! What an attack cost others, and whether that is too much.

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::bounds::{Attack, HARD, is_long};
use super::bystander::Phase;
use super::gauge::Peak;

/// What came of an attack.
#[derive(Debug)]
pub struct Verdict {
    pub(super) attack: Attack,
    /// The bystander before it.
    pub before: Phase,
    /// While it lasted.
    pub during: Phase,
    /// After it.
    pub after: Phase,
    /// What the broker took while it lasted.
    pub broker: Peak,
    /// What the broker has logged since before the attack, the bystander's starts included.
    pub log_lines: usize,
    /// What the attacker saw.
    pub seen: Value,
}

impl Verdict {
    /// Asserts that others were served all the while, and that the broker's memory stayed within its
    /// budget.
    ///
    /// # Panics
    /// When not, with all that was measured.
    #[track_caller]
    pub fn assert(&self) {
        let faults = self.faults();
        assert!(faults.is_empty(), "{}: {}\n{self:#?}", self.attack.name, faults.join("; "));
    }

    pub(super) fn is_right(&self) -> bool {
        self.faults().is_empty()
    }

    /// Whether nothing but times is wrong, which another trial may find right.
    pub(super) fn is_slow_only(&self) -> bool {
        self.lasting_faults().is_empty()
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = self.lasting_faults();
        // On a machine that is slow by itself, an attack is to be told from that.
        let own = Duration::from_secs_f64(3.0 * self.before.p99_ms / 1e3);
        let bound = self.attack.p99.max(own.min(HARD));
        for (phase, name) in [(&self.during, "during"), (&self.after, "after")] {
            let p99 = Duration::from_secs_f64(phase.p99_ms / 1e3);
            if p99 > bound {
                let said = &phase.said;
                faults.push(format!("p99 {name} is {p99:.1?}, more than {bound:.1?} ({said})"));
            }
        }
        faults
    }

    /// What no slow machine explains.
    fn lasting_faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let (peak, budget) = (self.broker.peak_mib, self.attack.peak_mib);
        if peak > budget {
            faults.push(format!("the broker took {peak} MiB, more than {budget} MiB"));
        }
        let during = if self.attack.may_fail { 0 } else { self.during.failures };
        if during + self.after.failures > 0 {
            let said = [&self.during.said, &self.after.said];
            faults.push(format!("calls of others failed: {said:?}"));
        }
        if is_long() && self.during.p99_ms > HARD.as_secs_f64() * 1e3 {
            faults.push(format!("p99 is more than {HARD:?}"));
        }
        faults
    }

    /// One line, for whoever looks at the test.
    pub(super) fn tell(&self) {
        println!("{}", self.row());
    }

    /// A row of the table that `cargo xtask soak --attacks` shows.
    pub(super) fn record(&self) {
        let Some(path) = std::env::var_os("JOB_TESTS_ATTACKS_REPORT") else { return };
        let file = File::options().create(true).append(true).open(path);
        let line = format!("{}\n", self.row());
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the report is writable");
    }

    fn row(&self) -> Value {
        let p99 = |phase: &Phase| (phase.p99_ms * 10.0).round() / 10.0;
        json!({
            "attack": self.attack.name,
            "p99_before_ms": p99(&self.before),
            "p99_during_ms": p99(&self.during),
            "p99_after_ms": p99(&self.after),
            "max_during_ms": (self.during.max_ms * 10.0).round() / 10.0,
            "calls": self.before.calls + self.during.calls + self.after.calls,
            "failures": self.during.failures + self.after.failures,
            "rss_before_mib": self.broker.before_mib,
            "rss_peak_mib": self.broker.peak_mib,
            "rss_budget_mib": self.attack.peak_mib,
            "descriptors": self.broker.descriptors,
            "threads": self.broker.threads,
            "log_lines": self.log_lines,
            "seen": self.seen,
            "faults": self.faults(),
        })
    }
}
