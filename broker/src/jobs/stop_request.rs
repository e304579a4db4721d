//! A requested stop: its deadline and its origin. Pure apart from the clock; sends nothing.

use std::time::Duration;

use job_shim::wire::{Source, Stop, ToShim};

use crate::jobs::recovery_rules::StopOrigin;
use job_launch::host;

/// A requested stop of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StopRequest {
    /// In which role.
    pub(crate) source: Source,
    /// By name.
    pub(crate) by: String,
    /// The end of the grace period, since the host was started.
    pub(crate) kill_at: Duration,
}

/// What a new stop request changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopChange {
    /// It is the first.
    First,
    /// The job has less time than it had.
    Earlier,
    /// It is being stopped already, as fast or faster.
    None,
}

impl StopRequest {
    /// Now.
    pub(crate) fn new(source: Source, by: String, grace: Duration) -> StopRequest {
        StopRequest { source, by, kill_at: host::since_boot().saturating_add(grace) }
    }

    /// What is left of the grace period.
    pub(crate) fn left(&self) -> Duration {
        self.kill_at.saturating_sub(host::since_boot())
    }

    /// For a shim that hears of it now: it has what is left of the grace period.
    pub(crate) fn message(&self) -> ToShim {
        let grace_ms = u64::try_from(self.left().as_millis()).unwrap_or(u64::MAX);
        ToShim::Stop(Stop { grace_ms, source: self.source, by: self.by.clone() })
    }

    /// Merges a later request as the shim does: the first origin and the earliest deadline win. Returns
    /// whether the deadline is now earlier.
    pub(crate) fn join(&mut self, later: &StopRequest) -> bool {
        let is_earlier = later.kill_at < self.kill_at;
        self.kill_at = self.kill_at.min(later.kill_at);
        is_earlier
    }

    /// For a comparison with what shims record, whose times are those of the wall. Computed now, since
    /// that clock may have been set between the stop and now. Of the times of an earlier boot nothing
    /// is known: then every such kill counts as one of this stop.
    pub(crate) fn origin(&self, is_of_this_boot: bool) -> StopOrigin {
        let now_ns = host::now_ns();
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let (since_boot, kill_at) = (nanos(host::since_boot()), nanos(self.kill_at));
        let booted_ns = now_ns.saturating_sub(since_boot);
        let kills_from_ns = if is_of_this_boot { booted_ns.saturating_add(kill_at) } else { 0 };
        StopOrigin { source: self.source, by: self.by.clone(), kills_from_ns }
    }
}
