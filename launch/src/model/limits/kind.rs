//! Limits that are one number: a row for each, with all that the other rooms have to know of it. A new
//! limit begins here; where else it is needed, the compiler says.

use std::time::Duration;

use job_grammar::units::MAX;
use serde::{Deserialize, Serialize};

/// Longest deadline, CPU time or grace period.
pub const MAX_DURATION: Duration = Duration::from_secs(10 * 365 * 86_400);

/// What a limit is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Microseconds,
    Bytes,
    /// A time, in milliseconds.
    Milliseconds,
    /// A time, in microseconds.
    CpuMicroseconds,
    Count,
}

/// What is known of a kind of limit.
#[derive(Debug, Clone, Copy)]
struct Row {
    /// The field of the contract that asks for it.
    field: &'static str,
    /// Its name where limits are shown: the kernel's file, or the contract's word for what the shim
    /// enforces. Some have two: a disk is divided by weight in one of two files.
    names: &'static [&'static str],
    unit: Unit,
    range: (u64, u64),
    /// Whether [`MAX`] takes the limit away.
    can_be_max: bool,
}

const DAYS: u64 = MAX_DURATION.as_secs() / 86_400;
const MILLIS: u64 = MAX_DURATION.as_secs() * 1_000;

macro_rules! limit_kinds {
    ($($(#[$doc:meta])* $kind:ident: $field:literal $names:expr, $unit:ident $range:expr, max $max:literal;)*) => {
        /// A limit that is one number.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum LimitKind {
            $($(#[$doc])* $kind,)*
        }

        impl LimitKind {
            /// All of them, in the order in which they are shown.
            pub const ALL: &[LimitKind] = &[$(LimitKind::$kind),*];

            const fn row(self) -> Row {
                match self {$(
                    LimitKind::$kind => Row {
                        field: $field,
                        names: &$names,
                        unit: Unit::$unit,
                        range: $range,
                        can_be_max: $max,
                    },
                )*}
            }
        }
    };
}

// Ranges: cgroup-v2.rst, and for memory what a shim and its program need to start.
limit_kinds! {
    /// `cpu.max`, first number.
    CpuQuota: "limits.cpu_max_quota_usec" ["cpu.max"], Microseconds (1_000, 1_000_000_000), max true;
    /// `cpu.max`, second number.
    CpuPeriod: "limits.cpu_max_period_usec" [], Microseconds (1_000, 1_000_000), max false;
    /// `cpu.weight`.
    CpuWeight: "limits.cpu_weight" ["cpu.weight"], Count (1, 10_000), max false;
    /// `memory.max`.
    MemoryMax: "limits.memory_max_bytes" ["memory.max"], Bytes (1 << 20, 1 << 60), max true;
    /// `memory.high`.
    MemoryHigh: "limits.memory_high_bytes" ["memory.high"], Bytes (1 << 20, 1 << 60), max true;
    /// `memory.swap.max`.
    MemorySwapMax: "limits.memory_swap_max_bytes" ["memory.swap.max"], Bytes (0, 1 << 60), max true;
    /// `pids.max`.
    PidsMax: "limits.pids_max" ["pids.max"], Count (1, 4_194_304), max true;
    /// `io.weight`, or `io.bfq.weight`.
    IoWeight: "limits.io_weight" ["io.weight", "io.bfq.weight"], Count (1, 10_000), max false;
    /// The deadline, from the start of the program.
    Time: "time_limit" ["time_limit"], Milliseconds (1, MILLIS), max false;
    /// CPU time of the whole tree.
    CpuTime: "cpu_time_limit" ["cpu_time_limit"], CpuMicroseconds (1_000, MILLIS * 1_000), max false;
    /// Output kept.
    Output: "output_limit_bytes" ["output_limit"], Bytes (1, 1 << 60), max false;
    /// The job's own directory.
    JobDir: "limits.job_dir_bytes" ["job_dir"], Bytes (1 << 20, 1 << 50), max true;
}

impl LimitKind {
    /// The field of the contract that asks for it.
    pub fn field(self) -> &'static str {
        self.row().field
    }

    /// Its names where limits are shown; those with a dot are files of a cgroup.
    #[cfg(test)]
    pub(crate) fn names(self) -> &'static [&'static str] {
        self.row().names
    }

    /// The kind that has this name where limits are shown: `memory.max`, `time_limit`.
    pub fn named(name: &str) -> Option<LimitKind> {
        LimitKind::ALL.iter().copied().find(|kind| kind.row().names.contains(&name))
    }

    /// A value as a time, of a limit that is one.
    pub(crate) fn time(self, value: u64) -> Duration {
        match self.row().unit {
            Unit::Microseconds | Unit::CpuMicroseconds => Duration::from_micros(value),
            Unit::Milliseconds | Unit::Bytes | Unit::Count => Duration::from_millis(value),
        }
    }

    /// Whether it is shown as a time.
    pub(crate) fn is_time(self) -> bool {
        matches!(self.row().unit, Unit::Milliseconds | Unit::CpuMicroseconds)
    }

    /// Whether a value is in range, else what is wrong with it.
    pub(crate) fn check(self, value: u64) -> Result<(), String> {
        let Row { unit, range: (least, most), can_be_max, .. } = self.row();
        if (least..=most).contains(&value) || (value == MAX && can_be_max) {
            return Ok(());
        }
        let unit = match unit {
            Unit::Milliseconds | Unit::CpuMicroseconds => {
                let per_second = if unit == Unit::Milliseconds { 1_000.0 } else { 1_000_000.0 };
                let value = value as f64 / per_second;
                return Err(format!("is {value} s; it must be from 0.001 s to {DAYS} days"));
            }
            Unit::Microseconds => " microseconds",
            Unit::Bytes => " bytes",
            Unit::Count => "",
        };
        let max = if can_be_max { format!(", or {MAX} for no limit") } else { String::new() };
        Err(format!("is {value}; it must be from {least} to {most}{unit}{max}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_of_every_range_are_taken_and_what_is_beyond_is_not() {
        for kind in LimitKind::ALL.iter().copied() {
            let (least, most) = kind.row().range;
            for fits in [least, most] {
                assert_eq!(kind.check(fits), Ok(()), "{kind:?} {fits}");
            }
            for beyond in [least.checked_sub(1), Some(most + 1)].into_iter().flatten() {
                let fault = kind.check(beyond).unwrap_err();
                let says = fault.contains(&least.to_string()) && fault.contains(&most.to_string());
                assert!(says || fault.contains("3650 days"), "{kind:?} {beyond}: {fault}");
            }
            assert_eq!(kind.check(MAX).is_ok(), kind.row().can_be_max, "{kind:?}");
        }
    }
}
