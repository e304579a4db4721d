//! What a job uses and has used, as data: recorded, shown, summed up. The kernel tells it to `cgroup/usage`.

use serde::{Deserialize, Serialize};

/// The whole tree of a job together. What this kernel does not tell is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "as in the contract's message Usage, whose names these are")]
pub struct Usage {
    pub cpu_usage_usec: Option<u64>,
    pub cpu_user_usec: Option<u64>,
    pub cpu_system_usec: Option<u64>,
    pub cpu_nr_periods: Option<u64>,
    pub cpu_nr_throttled: Option<u64>,
    pub cpu_throttled_usec: Option<u64>,
    pub memory_current_bytes: Option<u64>,
    pub memory_peak_bytes: Option<u64>,
    pub memory_swap_current_bytes: Option<u64>,
    pub memory_oom_kills: Option<u64>,
    pub memory_high_events: Option<u64>,
    pub memory_max_events: Option<u64>,
    pub pids_current: Option<u64>,
    pub pids_peak: Option<u64>,
    pub pids_max_events: Option<u64>,
    /// Only disks that were used.
    pub io: Vec<IoUsage>,
    /// Whether the kernel accounts for io here; without it an empty `io` says nothing.
    pub has_io: bool,
    pub cpu_pressure: Option<Pressure>,
    pub memory_pressure: Option<Pressure>,
    pub io_pressure: Option<Pressure>,
    pub job_dir_bytes: Option<u64>,
    pub job_dir_inodes: Option<u64>,
}

/// A line of `io.stat`. A volume and the disk below it both count the same bytes: no sums.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "as in the contract's message IoUsage")]
pub struct IoUsage {
    /// `MAJOR:MINOR`.
    pub device: String,
    /// As in `/dev`; empty if the device is gone.
    pub name: String,
    pub rbytes: u64,
    pub wbytes: u64,
    pub rios: u64,
    pub wios: u64,
}

/// Time in which some, or all, processes stood still for want of something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pressure {
    /// Microseconds.
    pub some_total_usec: u64,
    /// Percent, of the last 10 s.
    pub some_avg10: f64,
    /// Microseconds; not told for the CPU before Linux 5.13.
    pub full_total_usec: Option<u64>,
    /// Percent, of the last 10 s.
    pub full_avg10: Option<f64>,
}

/// Percentages are decimals of the kernel's, never NaN.
impl Eq for Pressure {}
