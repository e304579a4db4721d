//! How a command ended, and what it used. Plain data.

use std::time::Duration;

/// The end of a command, whatever it was: a command that fails or is killed is no error of the sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outcome {
    /// If it exited.
    pub exit_code: Option<i32>,
    /// If a signal ended it.
    pub signal: Option<i32>,
    /// From its exec to its end.
    pub duration: Duration,
    /// Its time was over ([`Builder::timeout`](crate::Builder::timeout)), and that ended it.
    pub timed_out: bool,
    /// Its CPU time was used up ([`Builder::cpu_time`](crate::Builder::cpu_time)), and that ended it.
    pub cpu_time_exceeded: bool,
    /// The kernel killed it, or a process of it, for lack of memory.
    pub memory_exceeded: bool,
    /// What it wrote, as far as that was kept; empty if it went to a stream of the caller's.
    pub stdout: Vec<u8>,
    /// Likewise.
    pub stderr: Vec<u8>,
    /// Bytes that it wrote and that were not kept: past [`Builder::output_limit`](crate::Builder::output_limit), or
    /// because the disk was full.
    pub dropped: u64,
    /// What it used, with all its processes.
    pub usage: Usage,
}

impl Outcome {
    /// Whether it exited with 0.
    pub fn success(&self) -> bool {
        self.exit_code == Some(0)
    }
}

/// What a command and all its processes have used. What this kernel does not tell is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// In user mode and in the kernel.
    pub cpu_time: Option<Duration>,
    /// How long it stood still for its limit of CPUs.
    pub cpu_throttled: Option<Duration>,
    /// The most memory at once, in bytes, page cache included.
    pub memory_peak: Option<u64>,
    /// The most processes and threads at once.
    pub processes_peak: Option<u64>,
    /// How often its limit of processes refused one.
    pub processes_refused: Option<u64>,
    /// Bytes read from disks, summed over devices.
    pub disk_read: Option<u64>,
    /// Bytes written to disks.
    pub disk_written: Option<u64>,
}
