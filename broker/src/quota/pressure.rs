//! How near identities are to their limits, for metrics: for each quota the highest use and how many have reached it.
//! Names no identity: which ones they are is for `jobctl quota` of an admin.

use std::sync::Arc;

use crate::model::identity::Identity;
use crate::quota::jobs::JobsInUse;
use crate::quota::kind::{QuotaKind, UNLIMITED};
use crate::quota::limits::Limit;
use crate::quota::quotas::Quotas;
use crate::quota::starts::Rate;
use crate::sync::lock;
use job_launch::host;

/// What an owner's jobs count for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnerInUse {
    /// Whose.
    pub(crate) owner: Identity,
    /// Its jobs that have not ended.
    pub(crate) running: JobsInUse,
    /// Its finished jobs, and the bytes of their output.
    pub(crate) kept: (u64, u64),
}

/// How near the identities with a limit are to it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Pressure {
    /// The highest use of its limit: 1 is all of it, and more is left from before a reload that lowered it.
    pub(crate) highest: f64,
    /// How many identities use as much as their limit, or more.
    pub(crate) at_limit: u64,
}

impl Pressure {
    /// Counts one identity.
    fn add(&mut self, used: u64, limit: u64) {
        if used == 0 {
            return;
        }
        // A job without a limit where there is a sum counts as all of it.
        let used = if used == UNLIMITED { limit } else { used };
        let ratio = if limit == 0 { 1.0 } else { used as f64 / limit as f64 };
        self.highest = self.highest.max(ratio);
        self.at_limit += u64::from(used >= limit);
    }
}

impl Quotas {
    /// Of each quota, over the owners of jobs and over whoever holds something. Asks each identity's limits once.
    pub(crate) fn pressure(&self, owners: &[OwnerInUse]) -> Vec<(QuotaKind, Pressure)> {
        let mut all = [Pressure::default(); QuotaKind::ALL.len()];
        let mut add = |kind: QuotaKind, used, limit: Option<&Limit>| {
            let place = all.get_mut(kind.index());
            place.into_iter().zip(limit).for_each(|(own, limit)| own.add(used, limit.value));
        };
        for OwnerInUse { owner, running, kept: (jobs, bytes) } in owners {
            let limits = self.limits(owner);
            for kind in QuotaKind::ALL {
                let used = match kind {
                    QuotaKind::KeptJobs => Some(*jobs),
                    QuotaKind::KeptBytes => Some(*bytes),
                    kind => running.of_kind(kind),
                };
                used.into_iter().for_each(|used| add(kind, used, limits.get(kind)));
            }
        }
        let starting = lock(&self.starts).identities();
        for who in starting {
            let limits = self.limits(&who);
            let Some(limit) = limits.get(QuotaKind::StartsPerMinute) else { continue };
            let used = lock(&self.starts).used(&who, Rate::of(limit), host::since_boot());
            let burst = Limit { value: limit.burst, ..limit.clone() };
            add(QuotaKind::StartsPerMinute, used, Some(&burst));
        }
        let counters = lock(&self.counters).clone();
        for (kind, quota) in counters {
            for (used, value) in quota.used_by_each() {
                let limit = Limit { value, burst: value, origin: Arc::from("") };
                add(kind, used, Some(&limit));
            }
        }
        QuotaKind::ALL.into_iter().zip(all).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::limits::{Membership, QuotaTable, QuotaTables};

    #[test]
    fn the_highest_use_and_those_at_their_limit_are_told_without_names() {
        let quotas = Quotas::default();
        let values = [(QuotaKind::RunningJobs, 4), (QuotaKind::Memory, 100)].into();
        let default = QuotaTable { values, burst: None };
        let tables = QuotaTables { default, ..QuotaTables::default() };
        quotas.set(tables, Arc::new(|_| Membership::default()));
        let streams = quotas.counter(QuotaKind::Streams, 2, 10);
        let own = |name: &str, jobs, memory| OwnerInUse {
            owner: Identity::new(name).unwrap(),
            running: JobsInUse { jobs, memory, ..JobsInUse::default() },
            kept: (9, 9),
        };
        let owners = [own("a", 1, 100), own("b", 3, 0), own("c", 0, UNLIMITED)];
        let held = streams.take(&owners[0].owner, 1).unwrap();
        let of = |kind: QuotaKind| quotas.pressure(&owners)[kind.index()].1;
        assert_eq!(of(QuotaKind::RunningJobs), Pressure { highest: 0.75, at_limit: 0 });
        assert_eq!(of(QuotaKind::Memory), Pressure { highest: 1.0, at_limit: 2 });
        assert_eq!(of(QuotaKind::KeptJobs), Pressure::default(), "no limit");
        assert_eq!(of(QuotaKind::Streams), Pressure { highest: 0.5, at_limit: 0 });
        drop(held);
        assert_eq!(of(QuotaKind::Streams), Pressure::default());
    }
}
