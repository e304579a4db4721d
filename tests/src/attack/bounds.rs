//! An attack's name, its short or long form, and its bounds. It must not measure anything.

use std::time::Duration;

use crate::is_testbed;

/// Whether attacks take their long form, as under `cargo xtask soak --attacks`.
pub fn is_long() -> bool {
    std::env::var("JOB_TESTS_ATTACKS").is_ok_and(|form| form == "long")
}

/// The load of an attack: `short` in the test command, `long` in the long form.
pub fn form<T>(short: T, long: T) -> T {
    if is_long() { long } else { short }
}

/// An attack's name and bounds.
#[derive(Debug, Clone)]
#[must_use = "it is only a description"]
pub struct Attack {
    pub(super) name: String,
    pub(super) peak_mib: u64,
    pub(super) p99: Duration,
    pub(super) may_fail: bool,
}

impl Attack {
    /// An attack with the default bounds: another identity's p99 is 100 ms, the broker's memory 128 MiB. The name
    /// begins with the item or the row of the table of faults.
    pub fn new(name: &str) -> Attack {
        // The testbed has one slow processor for attacker, broker and bystander.
        let p99 = if is_testbed() { HARD } else { Duration::from_millis(100) };
        Attack { name: name.into(), peak_mib: 128, p99, may_fail: false }
    }

    /// Sets the bound of the broker's peak RSS, in MiB.
    pub fn peak_mib(self, peak_mib: u64) -> Attack {
        Attack { peak_mib, ..self }
    }

    /// Permits failed calls of others during the attack, as on a host without free descriptors; calls must succeed
    /// again after it.
    pub fn may_refuse_others(self) -> Attack {
        Attack { may_fail: true, ..self }
    }
}

/// The bound of another identity's p99 on any machine.
pub(super) const HARD: Duration = Duration::from_secs(1);
