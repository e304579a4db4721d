//! Limits that are one number, and what each may be.

use serde::{Deserialize, Serialize};

use crate::model::limits::{MAX, MAX_DURATION};

/// A limit that is one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitKind {
    /// `cpu.max`, first number, microseconds.
    CpuQuota,
    /// `cpu.max`, second number, microseconds.
    CpuPeriod,
    /// `cpu.weight`.
    CpuWeight,
    /// `memory.max`, bytes.
    MemoryMax,
    /// `memory.high`, bytes.
    MemoryHigh,
    /// `memory.swap.max`, bytes.
    MemorySwapMax,
    /// `pids.max`.
    PidsMax,
    /// `io.weight`.
    IoWeight,
    /// The deadline from the start of the program, milliseconds.
    Time,
    /// CPU time of the whole tree, microseconds.
    CpuTime,
    /// Bytes of output kept.
    Output,
}

impl LimitKind {
    /// All of them, in the order in which they are shown.
    pub const ALL: [LimitKind; 11] = [
        LimitKind::CpuQuota,
        LimitKind::CpuPeriod,
        LimitKind::CpuWeight,
        LimitKind::MemoryMax,
        LimitKind::MemoryHigh,
        LimitKind::MemorySwapMax,
        LimitKind::PidsMax,
        LimitKind::IoWeight,
        LimitKind::Time,
        LimitKind::CpuTime,
        LimitKind::Output,
    ];

    /// The field of the contract that asks for it.
    pub fn field(self) -> &'static str {
        match self {
            LimitKind::CpuQuota => "limits.cpu_max_quota_usec",
            LimitKind::CpuPeriod => "limits.cpu_max_period_usec",
            LimitKind::CpuWeight => "limits.cpu_weight",
            LimitKind::MemoryMax => "limits.memory_max_bytes",
            LimitKind::MemoryHigh => "limits.memory_high_bytes",
            LimitKind::MemorySwapMax => "limits.memory_swap_max_bytes",
            LimitKind::PidsMax => "limits.pids_max",
            LimitKind::IoWeight => "limits.io_weight",
            LimitKind::Time => "time_limit",
            LimitKind::CpuTime => "cpu_time_limit",
            LimitKind::Output => "output_limit_bytes",
        }
    }

    /// What it may be: cgroup-v2.rst, and for memory what a shim and its program need to start.
    pub(crate) fn range(self) -> (u64, u64) {
        let time = u64::try_from(MAX_DURATION.as_millis()).unwrap_or(MAX);
        match self {
            LimitKind::CpuQuota => (1_000, 1_000_000_000),
            LimitKind::CpuPeriod => (1_000, 1_000_000),
            LimitKind::CpuWeight | LimitKind::IoWeight => (1, 10_000),
            LimitKind::MemoryMax | LimitKind::MemoryHigh => (1 << 20, 1 << 60),
            LimitKind::MemorySwapMax => (0, 1 << 60),
            LimitKind::PidsMax => (1, 4_194_304),
            LimitKind::Time => (1, time),
            LimitKind::CpuTime => (1_000, time * 1_000),
            LimitKind::Output => (1, 1 << 60),
        }
    }

    /// Whether [`MAX`] takes the limit away.
    pub(crate) fn can_be_max(self) -> bool {
        use LimitKind::*;
        matches!(self, CpuQuota | MemoryMax | MemoryHigh | MemorySwapMax | PidsMax)
    }

    fn unit(self) -> &'static str {
        match self {
            LimitKind::CpuQuota | LimitKind::CpuPeriod => " microseconds",
            LimitKind::MemoryMax
            | LimitKind::MemoryHigh
            | LimitKind::MemorySwapMax
            | LimitKind::Output => " bytes",
            _ => "",
        }
    }

    pub(crate) fn check(self, value: u64) -> Result<(), String> {
        let (least, most) = self.range();
        if (least..=most).contains(&value) || (value == MAX && self.can_be_max()) {
            return Ok(());
        }
        if matches!(self, LimitKind::Time | LimitKind::CpuTime) {
            let per_second = if self == LimitKind::Time { 1_000.0 } else { 1_000_000.0 };
            let (value, days) = (value as f64 / per_second, MAX_DURATION.as_secs() / 86_400);
            return Err(format!("is {value} s; it must be from 0.001 s to {days} days"));
        }
        let max =
            if self.can_be_max() { format!(", or {MAX} for no limit") } else { String::new() };
        Err(format!("is {value}; it must be from {least} to {most}{}{max}", self.unit()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_of_every_range_are_taken_and_what_is_beyond_is_not() {
        for knob in LimitKind::ALL {
            let (least, most) = knob.range();
            for fits in [least, most] {
                assert_eq!(knob.check(fits), Ok(()), "{knob:?} {fits}");
            }
            for beyond in [least.checked_sub(1), Some(most + 1)].into_iter().flatten() {
                let fault = knob.check(beyond).unwrap_err();
                let says = fault.contains(&least.to_string()) && fault.contains(&most.to_string());
                assert!(says || fault.contains("3650 days"), "{knob:?} {beyond}: {fault}");
            }
            assert_eq!(knob.check(MAX).is_ok(), knob.can_be_max(), "{knob:?}");
        }
    }
}
