//! Divides the process's descriptors (RLIMIT_NOFILE) into shares, so that connections cannot use up the
//! descriptors of jobs, nor readers those of records. It must leave a reserve for accept(2), launches and records,
//! whatever clients do.

use nix::sys::resource::{Resource, getrlimit};

/// The shares of descriptors, each in its own unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Connections; one descriptor each.
    pub(crate) connections: u64,
    /// Jobs whose output is being read; [`LOG_FILES`] each, however many streams read it.
    pub(crate) open_logs: u64,
    /// Live jobs; one descriptor each.
    pub(crate) running: u64,
    /// Jobs finalized at a time; a few descriptors each, for a short time, from the broker's reserve.
    pub(crate) finalizing: u64,
}

/// Descriptors of one job's open logs: stdout, stderr and the index.
pub(crate) const LOG_FILES: u64 = 3;
/// The reserve of the broker: runtimes, the cgroup hierarchy, launches, records, accept(2).
const RESERVED: u64 = 48;

impl Shares {
    /// The shares of this process. If getrlimit(2) fails, the usual soft limit is assumed.
    pub(crate) fn of_this_process() -> Shares {
        Shares::of(getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft))
    }

    /// The shares of a process with an RLIMIT_NOFILE of `limit`.
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
