//! Computes how many jobs may run at a time from the descriptor limit and the memory, unless
//! `jobs.max_running` says. Enforces nothing.

use std::fs;

use crate::quota::descriptors::Shares;

/// A job that does nothing: its shim (40 KiB of its own; stacks, page tables, descriptors and a process
/// of the kernel's as much again), three cgroups (100 to 200 KiB of the kernel's with all controllers),
/// its places in the broker (some 10 KiB).
const COST: u64 = 320 << 10;

/// Most jobs that run at a time.
pub(crate) fn max_running(configured: Option<u64>) -> u64 {
    let allowed = allowed(Shares::of_this_process(), memory());
    match configured {
        Some(most) if most > allowed => {
            tracing::warn!(
                most,
                allowed,
                "jobs.max_running is more than the limit of descriptors and the memory allow"
            );
            most
        }
        Some(most) => most,
        None => allowed,
    }
}

/// Half of the memory is for the jobs' programs. One job may always run.
fn allowed(descriptors: Shares, memory: Option<u64>) -> u64 {
    let by_memory = memory.map_or(u64::MAX, |bytes| bytes / 2 / COST);
    descriptors.running.min(by_memory).max(1)
}

/// The host's memory in bytes, proc_meminfo(5); `None` if it cannot be read.
fn memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_jobs_run_as_there_are_descriptors_and_memory_for() {
        assert_eq!(allowed(Shares::of(64), Some(24 << 30)), 10);
        assert!(allowed(Shares::of(20_000), Some(24 << 30)) >= 10_000);
        assert_eq!(allowed(Shares::of(524_288), Some(1 << 30)), 1638, "half of 1 GiB");
        assert_eq!(allowed(Shares::of(1), Some(1)), 1);
        assert!(memory().is_some_and(|bytes| bytes > 1 << 20));
    }
}
