//! The cost of an attack to others, and whether it is within the bounds. It must not measure anything.

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::bounds::{Attack, HARD, is_long};
use super::bystander::Phase;
use super::gauge::Peak;

/// The results of an attack.
#[derive(Debug)]
pub struct Verdict {
    pub(super) attack: Attack,
    /// The bystander before the attack.
    pub before: Phase,
    /// The bystander during the attack.
    pub during: Phase,
    /// The bystander after the attack.
    pub after: Phase,
    /// The broker's use during the attack.
    pub broker: Peak,
    /// Lines that the broker logged since before the attack, including the bystander's starts.
    pub log_lines: usize,
    /// What the attacker saw.
    pub seen: Value,
}

impl Verdict {
    /// Asserts that others were served all the time, and that the broker's memory stayed within its bound.
    ///
    /// # Panics
    /// If not, with all measured values.
    #[track_caller]
    pub fn assert(&self) {
        let faults = self.faults();
        assert!(faults.is_empty(), "{}: {}\n{self:#?}", self.attack.name, faults.join("; "));
    }

    pub(super) fn is_right(&self) -> bool {
        self.faults().is_empty()
    }

    /// Whether only times exceed their bounds, so that another trial may succeed.
    pub(super) fn is_slow_only(&self) -> bool {
        self.lasting_faults().is_empty()
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = self.lasting_faults();
        // On a slow machine the bound is three times the bystander's p99 before the attack, `HARD` at most.
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

    /// The faults that a slow machine does not explain.
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

    /// Prints one line for the test's reader.
    pub(super) fn tell(&self) {
        println!("{}", self.row());
    }

    /// A row of the table of `cargo xtask soak --attacks`.
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
