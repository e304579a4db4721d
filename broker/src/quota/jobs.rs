//! The quotas of running jobs: what a job counts for, the sum over an owner's jobs, and whether one more fits. Pure:
//! the registry sums up, under its lock, so that what is checked is what is true.

use job_api::units::MAX;

use crate::model::limits::{self, LimitKind};
use crate::quota::kind::{QuotaKind, UNLIMITED};
use crate::quota::limits::{Limits, QuotaTable};
use crate::quota::refusal::OverQuota;

/// What one job counts for, by its own limits. [`UNLIMITED`] where it has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Demand {
    /// Thousandths of a CPU, rounded up.
    pub(crate) cpus: u64,
    /// `memory.max`, bytes.
    pub(crate) memory: u64,
    /// `pids.max`.
    pub(crate) pids: u64,
}

/// What the running jobs of one owner count for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct JobsInUse {
    pub(crate) jobs: u64,
    /// Sums; [`UNLIMITED`] if a job has no limit.
    pub(crate) cpus: u64,
    pub(crate) memory: u64,
    pub(crate) pids: u64,
}

/// Quotas that are sums over running jobs.
const SUMS: [QuotaKind; 3] = [QuotaKind::Cpus, QuotaKind::Memory, QuotaKind::Pids];

impl Demand {
    /// Of a job with these limits.
    pub(crate) fn of(limits: &limits::Limits) -> Demand {
        // The kernel's word for no limit is the same number as ours.
        const { assert!(MAX == UNLIMITED) };
        let cpus = limits.cpu_max().filter(|(quota, _)| *quota != MAX).map(|(quota, period)| {
            let millis = (u128::from(quota) * 1000).div_ceil(u128::from(period.max(1)));
            u64::try_from(millis).unwrap_or(UNLIMITED)
        });
        Demand {
            cpus: cpus.unwrap_or(UNLIMITED),
            memory: limits.get(LimitKind::MemoryMax).unwrap_or(UNLIMITED),
            pids: limits.get(LimitKind::PidsMax).unwrap_or(UNLIMITED),
        }
    }

    /// The sums of a table that have no room for this one job: the quota, its limit, and what the job takes.
    pub(crate) fn above(&self, table: &QuotaTable) -> Vec<(QuotaKind, u64, u64)> {
        let all = SUMS.into_iter().filter_map(|kind| Some((kind, *table.values.get(&kind)?)));
        let with_demand = all.map(|(kind, limit)| (kind, limit, self.of_kind(kind)));
        let is_small = |(_, limit, takes): &(_, u64, u64)| *limit != UNLIMITED && limit < takes;
        with_demand.filter(is_small).collect()
    }

    /// The larger of both, for a job whose limits are being changed.
    pub(crate) fn max(self, other: Demand) -> Demand {
        Demand {
            cpus: self.cpus.max(other.cpus),
            memory: self.memory.max(other.memory),
            pids: self.pids.max(other.pids),
        }
    }

    fn of_kind(&self, kind: QuotaKind) -> u64 {
        match kind {
            QuotaKind::Cpus => self.cpus,
            QuotaKind::Memory => self.memory,
            QuotaKind::Pids => self.pids,
            _ => 1,
        }
    }
}

impl JobsInUse {
    /// Counts one more job.
    pub(crate) fn add(&mut self, demand: Demand) {
        self.jobs += 1;
        self.cpus = self.cpus.saturating_add(demand.cpus);
        self.memory = self.memory.saturating_add(demand.memory);
        self.pids = self.pids.saturating_add(demand.pids);
    }

    pub(crate) fn of_kind(&self, kind: QuotaKind) -> Option<u64> {
        match kind {
            QuotaKind::RunningJobs => Some(self.jobs),
            QuotaKind::Cpus => Some(self.cpus),
            QuotaKind::Memory => Some(self.memory),
            QuotaKind::Pids => Some(self.pids),
            _ => None,
        }
    }

    /// Whether one more job fits beside these.
    ///
    /// # Errors
    /// The first quota that is reached.
    pub(crate) fn check_start(&self, limits: &Limits, asked: &Demand) -> Result<(), OverQuota> {
        self.check(limits, QuotaKind::RunningJobs, 1)?;
        SUMS.into_iter().try_for_each(|kind| self.check(limits, kind, asked.of_kind(kind)))
    }

    /// Whether a job beside these may get `new` in the place of `old`. What is not raised always fits.
    ///
    /// # Errors
    /// The first quota that is reached.
    pub(crate) fn check_change(
        &self,
        limits: &Limits,
        old: &Demand,
        new: &Demand,
    ) -> Result<(), OverQuota> {
        let is_raised = |kind: &QuotaKind| new.of_kind(*kind) > old.of_kind(*kind);
        let mut raised = SUMS.into_iter().filter(is_raised);
        raised.try_for_each(|kind| self.check(limits, kind, new.of_kind(kind)))
    }

    fn check(&self, limits: &Limits, kind: QuotaKind, asked: u64) -> Result<(), OverQuota> {
        let Some(limit) = limits.get(kind) else { return Ok(()) };
        let used = self.of_kind(kind).unwrap_or_default();
        if asked != UNLIMITED && used.saturating_add(asked) <= limit.value {
            return Ok(());
        }
        let origin = limit.origin.clone();
        Err(OverQuota { kind, used, asked, limit: limit.value, origin, retry_after: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::limits::tests::limits;

    fn demand(cpus: u64, memory: u64, pids: u64) -> Demand {
        Demand { cpus, memory, pids }
    }

    #[test]
    fn a_job_counts_for_its_limits_and_for_all_where_it_has_none() {
        let mut own = limits::Limits::default();
        assert_eq!(Demand::of(&own), demand(UNLIMITED, UNLIMITED, UNLIMITED));
        own.set(LimitKind::CpuQuota, Some(15_001));
        own.set(LimitKind::MemoryMax, Some(1 << 20));
        own.set(LimitKind::PidsMax, Some(MAX));
        assert_eq!(Demand::of(&own), demand(151, 1 << 20, UNLIMITED));
        own.set(LimitKind::CpuQuota, Some(MAX));
        assert_eq!(Demand::of(&own).cpus, UNLIMITED);
    }

    #[test]
    fn the_last_that_fits_is_admitted_and_the_next_is_told_the_numbers() {
        let limits = limits(&[(QuotaKind::RunningJobs, 3), (QuotaKind::Memory, 100)]);
        let mut used = JobsInUse::default();
        used.add(demand(UNLIMITED, 60, 1));
        assert_eq!(used.check_start(&limits, &demand(UNLIMITED, 40, 1)), Ok(()));
        let refused = used.check_start(&limits, &demand(1, 41, 1)).unwrap_err();
        assert_eq!((refused.kind, refused.used, refused.asked), (QuotaKind::Memory, 60, 41));
        let said = refused.to_string();
        assert_eq!(
            said,
            "quota memory: 60 B of 100 B are in use, and 41 B more were asked for (memory of running \
             jobs, [quotas.default]); try again when a job has ended"
        );
        used.add(demand(1, 1, 1));
        used.add(demand(1, 1, 1));
        let said = used.check_start(&limits, &demand(1, 1, 1)).unwrap_err().to_string();
        assert_eq!(
            said,
            "quota running_jobs: 3 of 3 running jobs are in use ([quotas.default]); try again when one \
             of them is over"
        );
    }

    #[test]
    fn a_job_without_a_limit_does_not_get_into_a_sum_that_is_limited() {
        let limits = limits(&[(QuotaKind::Cpus, 4000)]);
        let refused = JobsInUse::default().check_start(&limits, &demand(UNLIMITED, 1, 1));
        let said = refused.unwrap_err().to_string();
        assert!(said.contains("a job without a limit of cpus is refused"), "{said}");
        assert!(said.contains("limited to 4 by [quotas.default]"), "{said}");
        let mut used = JobsInUse::default();
        used.add(demand(UNLIMITED, 1, 1)); // from before the quota
        let said = used.check_start(&limits, &demand(1, 1, 1)).unwrap_err().to_string();
        assert!(said.contains("a running job has no limit of cpus"), "{said}");
    }

    #[test]
    fn a_change_is_judged_by_what_it_raises() {
        let limits = limits(&[(QuotaKind::Memory, 100), (QuotaKind::Pids, 10)]);
        let mut others = JobsInUse::default();
        others.add(demand(1, 60, 20)); // above the quota, which was lowered
        let old = demand(1, 50, 9);
        assert_eq!(others.check_change(&limits, &old, &demand(9, 40, 9)), Ok(()));
        let kind = |new| others.check_change(&limits, &old, &new).unwrap_err().kind;
        assert_eq!(kind(demand(1, 51, 9)), QuotaKind::Memory);
        assert_eq!(kind(demand(1, 50, 10)), QuotaKind::Pids);
        assert_eq!(kind(demand(1, UNLIMITED, 9)), QuotaKind::Memory);
    }
}
