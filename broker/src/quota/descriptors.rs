//! What the process's descriptors (RLIMIT_NOFILE) are for. Each kind of use has a share of its own, so
//! that connections cannot take those of jobs, nor readers those of records: what is not shared out
//! stays for accept(2), launches and records, whatever clients do.

use nix::sys::resource::{Resource, getrlimit};

/// The shares, in descriptors' uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Connections, of one descriptor each.
    pub(crate) connections: u64,
    /// Jobs whose output is being read, of [`LOG_FILES`] each, however many read it.
    pub(crate) open_logs: u64,
    /// Jobs that live, of one each.
    pub(crate) running: u64,
    /// Jobs whose end is being put on record at a time, of a few each for a moment. They are of the
    /// broker's own, of which others need some as well.
    pub(crate) finalizing: u64,
}

/// Descriptors of one job's open logs: stdout, stderr and the index.
pub(crate) const LOG_FILES: u64 = 3;
/// The broker's own, and those of what it does for a moment: runtimes, the cgroup tree, launches,
/// records, accept(2).
const RESERVED: u64 = 48;

impl Shares {
    /// Of this process. Where the kernel does not tell its limit, the usual soft one is assumed.
    pub(crate) fn of_this_process() -> Shares {
        Shares::of(getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft))
    }

    /// Of a process that may have `limit` descriptors.
    pub(crate) fn of(limit: u64) -> Shares {
        let rest = limit.saturating_sub(RESERVED).max(8);
        Shares {
            connections: rest / 8,
            open_logs: (rest / 4 / LOG_FILES).max(1),
            running: rest / 8 * 5,
            finalizing: (limit / 16).clamp(2, 64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_leave_something_for_the_broker_itself() {
        for limit in [64, 256, 1024, 20_000, 524_288] {
            let Shares { connections, open_logs, running, .. } = Shares::of(limit);
            assert!(connections + LOG_FILES * open_logs + running + RESERVED <= limit, "{limit}");
        }
    }

    #[test]
    fn twenty_thousand_are_enough_for_ten_thousand_jobs() {
        assert!(Shares::of(20_000).running >= 10_000);
    }
}
